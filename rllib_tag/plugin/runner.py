"""RLlib's rollout worker, which tells the driver of numbers that are not finite instead of dying of them."""

from __future__ import annotations

from typing import Any, NoReturn

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.policy import PolicySpec
from ray.rllib.policy.sample_batch import MultiAgentBatch

from rllib_tag.plugin.class_paths import resolve
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.mapping import acting_policies


class TagRunner(RolloutWorker):
    """A rollout worker whose `FloatingPointError` ends the run.

    RLlib ends and restarts a remote worker at any exception, a hundred times in a row by default: right for a machine
    that went away, wrong for an environment that gives NaN.

    In evaluation it has only the policies that agents act by there, which may be fewer than are trained: of the others
    RLlib could not say what they observe.
    """

    def __init__(self, **kwargs: Any) -> None:
        config = kwargs["config"]
        super().__init__(**{**kwargs, "config": _evaluated(config) if config.in_evaluation else config})

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


def _evaluated(config: AlgorithmConfig) -> AlgorithmConfig:
    """A config for evaluation with the policies that agents of its `TagEnv` act by; another environment's as it is."""
    env_class = resolve("env", config.env) if "." in str(config.env) else None
    if not isinstance(env_class, type) or not issubclass(env_class, TagEnv):
        return config
    acting = set(acting_policies(config, env_class(config.env_config)).values())
    policies = config.policies if isinstance(config.policies, dict) else dict.fromkeys(config.policies, PolicySpec())
    kept = {name: spec for name, spec in policies.items() if name in acting}
    return config.copy(copy_frozen=False).multi_agent(policies=kept)


class ErrorBatch(MultiAgentBatch):
    """What travels to the driver in place of a batch, and raises when it is counted or copied there."""

    def __init__(self, message: str) -> None:
        super().__init__({}, 0)
        self.message = message

    def env_steps(self) -> NoReturn:
        """Raises `FloatingPointError`."""
        raise FloatingPointError(self.message)

    agent_steps = copy = decompress_if_needed = env_steps
