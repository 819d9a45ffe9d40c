"""Exceptions in env runners, which end a run instead of restarting a process again and again."""

from __future__ import annotations

import traceback
from typing import Any, NoReturn

from ray.exceptions import RayError, RayTaskError
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.policy.sample_batch import MultiAgentBatch


class RunnerError(RuntimeError):
    """An exception that was raised in an env runner, with the runner and the place."""


class ErrorBatch(MultiAgentBatch):
    """An error that is sent to the driver instead of a batch or any other result, and raises when it is used there.

    Args:
        error: The error to raise.
    """

    def __init__(self, error: RunnerError) -> None:
        super().__init__({}, 0)
        self.error = error

    def env_steps(self) -> NoReturn:
        """Raises the error."""
        raise self.error

    agent_steps = copy = decompress_if_needed = __iter__ = env_steps

    def __getitem__(self, index: Any) -> NoReturn:
        raise self.error


class NamesErrors(EnvRunner):
    """The part of an env runner that names the place of an exception; it comes before RLlib's class among the bases."""

    def sample(self, **kwargs: Any) -> Any:
        """Returns what RLlib's class samples.

        Raises:
            RunnerError: If the environment, its wrappers or the callbacks raise, or numbers are not finite.
        """
        try:
            return self.sample_or_raise(**kwargs)
        except Exception as error:
            raise runner_error(self, error) from error

    def sample_or_raise(self, **kwargs: Any) -> Any:
        """Returns samples; raises whatever the environment, its wrappers or the callbacks raise."""
        return super().sample(**kwargs)


def runner_error(runner: Any, error: Exception) -> RunnerError:
    """Converts an exception of an env runner to an error that names its place; re-raises what RLlib handles.

    Args:
        runner: The env runner.
        error: What was raised in it.
    """
    if isinstance(error, RunnerError):
        return error
    if not str(error) and isinstance(error.__cause__, Exception):  # RLlib's new API stack wraps what an env raises
        error = error.__cause__
    config = runner.config
    died = isinstance(error, RayError) and not isinstance(error, RayTaskError)
    not_finite = isinstance(error, FloatingPointError)
    if died or (config.ignore_env_runner_failures and not not_finite):
        raise error
    *_, frame = traceback.extract_tb(error.__traceback__)
    cause = error.cause if isinstance(error, RayTaskError) else error  # raised in the environment's own actor
    # The message about a number that is not finite already names its place.
    place = "" if not_finite else f" ({frame.filename}:{frame.lineno}, in {frame.name})"
    name = f"{'evaluation ' if config.in_evaluation else ''}env runner {runner.worker_index}"
    return RunnerError(f"{name}: {type(cause).__name__}: {' '.join(str(cause).split())}{place}")
