"""RLlib's rollout worker, which reports exceptions to the driver instead of dying."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ray.exceptions import RayError, RayTaskError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.policy import Policy, PolicySpec
from ray.rllib.policy.sample_batch import MultiAgentBatch

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.class_paths import env_class
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.mapping import acting_policies


class TagRunner(RolloutWorker):
    """A rollout worker whose own exceptions end the run, and whose restored state leaves the run's config alone.

    RLlib ends and restarts a remote worker at any exception, time after time: right for a machine that went away, wrong
    for an environment, a wrapper or a callback that raises. Here the worker stays, and answers whatever it is asked
    from then on by what was raised, with its place. Left to RLlib are parts that died, such as an environment's own
    actor, what `ignore_env_runner_failures` lets pass, and what `restart_failed_sub_environments` restarts.

    In evaluation it has only the policies that agents act by there, which may be fewer than are trained: of the others
    RLlib could not say what they observe.
    """

    policy_mapping_fn: Callable[..., str]
    is_policy_to_train: Callable[..., bool] | None
    _keeps_mapping = False

    def __init__(self, **kwargs: Any) -> None:
        self.config = kwargs["config"]
        self.worker_index = kwargs.get("worker_index", 0)
        self._error: RunnerError | None = None
        try:
            if isinstance(kwargs.get("spaces"), ErrorBatch):  # of the worker asked what policies observe
                raise kwargs["spaces"].error
            here = _evaluated(self.config) if self.config.in_evaluation else self.config
            self._not_here = set(self.config.policies) - set(here.policies)
            super().__init__(**{**kwargs, "config": here})
            self.prepare()
        except Exception as error:  # an environment or a callback may raise anything
            if isinstance(error, ConfigError) and self.worker_index == 0:
                raise
            self._error = self._told(error)
            if self.worker_index == 0:
                raise self._error from error

    def prepare(self) -> None:
        """What a subclass sets up once RLlib has built the worker. Default: nothing."""

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function gives on this worker, which RLlib asks so from afar; `ErrorBatch` once it has failed."""

        def told(_: TagRunner) -> Any:
            try:
                return func(self, *args, **kwargs)
            except Exception as error:
                self._error = self._told(error)
                return ErrorBatch(self._error)

        return super().apply(told) if self._error is None else ErrorBatch(self._error)

    def sample(self, **kwargs: Any) -> MultiAgentBatch:
        """A sample batch.

        Raises:
            RunnerError: If the environment, its wrappers or the callbacks raise, or numbers are not finite.
        """
        try:
            return self.sample_or_raise(**kwargs)
        except Exception as error:
            raise self._told(error) from error

    def sample_or_raise(self, **kwargs: Any) -> MultiAgentBatch:
        """A sample batch; raises whatever the environment, its wrappers or the callbacks raise."""
        return super().sample(**kwargs)

    def _told(self, error: Exception) -> RunnerError:
        """An exception of this worker with its place; raises again what is left to RLlib."""
        if isinstance(error, RunnerError):
            return error
        died = isinstance(error, RayError) and not isinstance(error, RayTaskError)
        finite = not isinstance(error, FloatingPointError)
        if died or (self.config.ignore_env_runner_failures and finite):
            raise error
        *_, frame = traceback.extract_tb(error.__traceback__)
        cause = error.cause if isinstance(error, RayTaskError) else error  # of an actor of the environment's own
        place = f" ({frame.filename}:{frame.lineno}, in {frame.name})" if finite else ""  # which says its own
        name = f"{'evaluation ' if self.config.in_evaluation else ''}env runner {self.worker_index}"
        return RunnerError(f"{name}: {type(cause).__name__}: {' '.join(str(cause).split())}{place}")

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores weights, optimizers' moments, filters and counters; the rest stays what this run's config says.

        RLlib's own would also take the checkpoint's hyperparameters, connectors, mapping and policies to train, and so
        undo what another file or a population says; and it would start schedules anew until the next iteration ends.
        A checkpoint that holds policies beyond this run's, which a callback added, brings its mapping for them.
        """
        names = set(self.policy_map.keys())  # swapped ones, too
        own = {name: _OwnSettings(self.policy_map[name]) for name in names}
        mapping, to_train = self.policy_mapping_fn, self.is_policy_to_train
        here = {name: part for name, part in state["policy_states"].items() if name not in self._not_here}
        super().set_state({**state, "policy_states": here})
        for name, settings in own.items():
            settings.put_back(self.policy_map[name])
        if set(self.policy_map.keys()) == names:
            self.policy_mapping_fn, self.is_policy_to_train = mapping, to_train
            self._keeps_mapping = self.config.in_evaluation and not self.recreated_worker

    def set_policy_mapping_fn(self, policy_mapping_fn: Callable[..., str] | None = None) -> None:
        """Sets another mapping, but for the checkpoint's that RLlib hands to evaluation workers after `set_state`."""
        kept, self._keeps_mapping = self._keeps_mapping, False
        super().set_policy_mapping_fn(None if kept else policy_mapping_fn)


class _OwnSettings:
    """What a policy's config decides and a checkpoint of another config would overwrite."""

    def __init__(self, policy: Policy) -> None:
        self._connectors = policy.agent_connectors, policy.action_connectors
        self._config = policy.config
        self._options = [{key: value for key, value in group.items() if key != "params"} for group in _groups(policy)]

    def put_back(self, policy: Policy) -> None:
        """Undoes it."""
        policy.agent_connectors, policy.action_connectors = self._connectors
        trained, policy.config = policy.config, self._config
        for group, options in zip(_groups(policy), self._options, strict=True):
            group.update(options)
        if trained.get("kl_coeff") != policy.config.get("kl_coeff"):  # else it goes on adapting
            policy.kl_coeff = policy.config["kl_coeff"]
        policy.on_global_var_update({"timestep": policy.global_timestep})  # where the schedules stand


def _groups(policy: Policy) -> list[dict[str, Any]]:
    return [group for optimizer in getattr(policy, "_optimizers", ()) for group in optimizer.param_groups]


def _evaluated(config: AlgorithmConfig) -> AlgorithmConfig:
    """A config for evaluation with the policies that agents of its `CommEnv` act by; another environment's as it is."""
    found = env_class("env", config.env)
    if found is None or not issubclass(found, CommEnv):
        return config
    acting = set(acting_policies(config, found(config.env_config)).values())
    policies = config.policies if isinstance(config.policies, dict) else dict.fromkeys(config.policies, PolicySpec())
    kept = {name: spec for name, spec in policies.items() if name in acting}
    return config.copy(copy_frozen=False).multi_agent(policies=kept)


class RunnerError(RuntimeError):
    """What was raised in an env runner, with the runner and the place."""


class ErrorBatch(MultiAgentBatch):
    """What travels to the driver in place of a batch or any other answer, and raises when it is used there.

    Args:
        error: What it raises.
    """

    def __init__(self, error: RunnerError) -> None:
        super().__init__({}, 0)
        self.error = error

    def env_steps(self) -> NoReturn:
        """Raises the error."""
        raise self.error

    agent_steps = copy = decompress_if_needed = __iter__ = env_steps
