"""RLlib's rollout worker, which tells the driver of numbers that are not finite instead of dying of them."""

from __future__ import annotations

from typing import Any, NoReturn

from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.sample_batch import MultiAgentBatch


class TagRunner(RolloutWorker):
    """A rollout worker whose `FloatingPointError` ends the run.

    RLlib ends and restarts a remote worker at any exception, a hundred times in a row by default: right for a machine
    that went away, wrong for an environment that gives NaN.
    """

    def sample(self, **kwargs: Any) -> MultiAgentBatch:
        """A sample batch; one that raises the error on the driver, if the environment's numbers are not finite."""
        try:
            return self.sample_finite(**kwargs)
        except FloatingPointError as error:
            if self.worker_index == 0:
                raise
            return ErrorBatch(f"{error} (env runner {self.worker_index})")

    def sample_finite(self, **kwargs: Any) -> MultiAgentBatch:
        """A sample batch.

        Raises:
            FloatingPointError: If the environment's numbers are not finite.
        """
        return super().sample(**kwargs)


class ErrorBatch(MultiAgentBatch):
    """What travels to the driver in place of a batch, and raises when it is counted or copied there."""

    def __init__(self, message: str) -> None:
        super().__init__({}, 0)
        self.message = message

    def env_steps(self) -> NoReturn:
        """Raises `FloatingPointError`."""
        raise FloatingPointError(self.message)

    agent_steps = copy = decompress_if_needed = env_steps
