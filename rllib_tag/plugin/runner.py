"""RLlib's rollout worker, which tells the driver of numbers that are not finite instead of dying of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.policy import Policy, PolicySpec
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

    policy_mapping_fn: Callable[..., str]
    is_policy_to_train: Callable[..., bool] | None
    _keeps_mapping = False

    def __init__(self, **kwargs: Any) -> None:
        config = kwargs["config"]
        here = _evaluated(config) if config.in_evaluation else config
        self._not_here = set(config.policies) - set(here.policies)
        super().__init__(**{**kwargs, "config": here})

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
