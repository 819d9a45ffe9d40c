"""A rollout worker that reports exceptions to the driver instead of dying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.policy import Policy, PolicySpec

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.class_paths import env_class
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.mapping import acting_policies
from rllib_tag.plugin.runner_errors import ErrorBatch, NamesErrors, RunnerError, runner_error


class TagRunner(NamesErrors, RolloutWorker):
    """A rollout worker whose exceptions end the run, and that keeps the run's config when it restores a state.

    RLlib kills and restarts a remote worker after any exception, again and again. That is right if a machine is gone,
    but wrong if an environment, a wrapper or a callback raises. This worker stays alive and answers all further calls
    with the exception and the place where it was raised. RLlib still handles dead processes, such as an environment's
    own actor, exceptions that `ignore_env_runner_failures` allows, and `restart_failed_sub_environments`.

    In evaluation, it has only the policies that agents act by there, which may be fewer than those in training: RLlib
    could not infer the observation spaces of the others.
    """

    policy_mapping_fn: Callable[..., str]
    is_policy_to_train: Callable[..., bool] | None
    _keeps_mapping = False

    def __init__(self, **kwargs: Any) -> None:
        self.config = kwargs["config"]
        self.worker_index = kwargs.get("worker_index", 0)
        self._error: RunnerError | None = None
        try:
            if isinstance(kwargs.get("spaces"), ErrorBatch):  # from the worker that was asked for the spaces
                raise kwargs["spaces"].error
            here = _with_acting_policies(self.config) if self.config.in_evaluation else self.config
            self._not_here = set(self.config.policies) - set(here.policies)
            super().__init__(**{**kwargs, "config": here})
            self.prepare()
        except Exception as error:  # an environment or a callback may raise anything
            if isinstance(error, ConfigError) and self.worker_index == 0:
                raise
            self._error = runner_error(self, error)
            if self.worker_index == 0:
                raise self._error from error

    def prepare(self) -> None:
        """Sets up what a subclass needs, after RLlib has constructed the worker. Default: nothing."""

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Returns the result of a function on this worker, or an `ErrorBatch` once the worker has failed.

        RLlib calls remote workers this way.
        """

        def guarded(_: TagRunner) -> Any:
            try:
                return func(self, *args, **kwargs)
            except Exception as error:
                self._error = runner_error(self, error)
                return ErrorBatch(self._error)

        return super().apply(guarded) if self._error is None else ErrorBatch(self._error)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores weights, optimizer moments, filters and counters; everything else stays as this run configures it.

        RLlib's method would also restore the checkpoint's hyperparameters, connectors, mapping and policies to train,
        and so override another experiment file or a population. It would also restart schedules until the end of the
        next iteration. If the checkpoint contains policies beyond this run's, which a callback added, its mapping is
        restored as well.
        """
        names = set(self.policy_map.keys())  # including those that are swapped out
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
        """Sets a mapping, except for the checkpoint's, which RLlib passes to evaluation workers after `set_state`."""
        kept, self._keeps_mapping = self._keeps_mapping, False
        super().set_policy_mapping_fn(None if kept else policy_mapping_fn)


class _OwnSettings:
    """The settings of a policy that its config decides, and that a checkpoint of another config would overwrite."""

    def __init__(self, policy: Policy) -> None:
        self._connectors = policy.agent_connectors, policy.action_connectors
        self._config = policy.config
        self._options = [{key: value for key, value in group.items() if key != "params"} for group in _groups(policy)]

    def put_back(self, policy: Policy) -> None:
        """Restores these settings."""
        policy.agent_connectors, policy.action_connectors = self._connectors
        trained, policy.config = policy.config, self._config
        for group, options in zip(_groups(policy), self._options, strict=True):
            group.update(options)
        if trained.get("kl_coeff") != policy.config.get("kl_coeff"):  # otherwise it keeps the adapted value
            policy.kl_coeff = policy.config["kl_coeff"]
        policy.on_global_var_update({"timestep": policy.global_timestep})  # updates the schedules


def _groups(policy: Policy) -> list[dict[str, Any]]:
    return [group for optimizer in getattr(policy, "_optimizers", ()) for group in optimizer.param_groups]


def _with_acting_policies(config: AlgorithmConfig) -> AlgorithmConfig:
    """Returns a config with only the policies that agents of its `CommEnv` act by; for other envs, the same config."""
    found = env_class("env", config.env)
    if found is None or not issubclass(found, CommEnv):
        return config
    acting = set(acting_policies(config, found(config.env_config)).values())
    policies = config.policies if isinstance(config.policies, dict) else dict.fromkeys(config.policies, PolicySpec())
    kept = {name: spec for name, spec in policies.items() if name in acting}
    return config.copy(copy_frozen=False).multi_agent(policies=kept)
