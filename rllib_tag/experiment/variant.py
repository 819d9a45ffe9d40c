"""The configs that RLlib derives from an experiment's: for training, for evaluation, and for every policy in each."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.class_paths import env_class
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.old_api_stack.model import CommModel
from rllib_tag.plugin.ray_internals import (
    evaluation_config,
    merged_config,
    policy_configs,
)

# What RLlib may raise for a value that it rejects.
REJECTIONS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError)


@dataclasses.dataclass(frozen=True)
class View:
    """What the training workers, or the evaluation workers, get.

    Args:
        what: What messages call it.
        config: RLlib's complete config.
        policies: The same config with each policy's own merged into it, by policy.
        env: The environment's class; None for a name registered with Tune or gymnasium.
    """

    what: str
    config: AlgorithmConfig
    policies: Mapping[str, AlgorithmConfig]
    env: type[gym.Env] | None

    @property
    def comm(self) -> type[CommEnv] | None:
        """The environment's class, if it is a `CommEnv`."""
        return self.env if self.env is not None and issubclass(self.env, CommEnv) else None

    @property
    def has_comm_model(self) -> bool:
        """Whether any policy has a `CommModel`."""
        return any(is_comm(config.model["custom_model"]) for config in self.policies.values())

    def what_of(self, policy: str) -> str:
        """Returns what messages call the config of a policy: the view's name, unless it has values of its own."""
        return self.what if self.policies[policy] is self.config else f"{self.what}: multiagent: policies: {policy}"

    @property
    def is_ours(self) -> bool:
        """Whether it uses `CommEnv` or `CommModel`."""
        return self.comm is not None or self.has_comm_model

    @property
    def must_be_batched(self) -> bool:
        """Whether its game requires the batched sampler."""
        return self.comm is not None and self.config.env_config.get("backend") == "batched"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A checked config that an experiment's trials may run, resolved.

    Args:
        training: What the training workers get.
        evaluation: What the evaluation workers get.
        resources: What a trial requests from Ray, evaluation workers included.
        default_sampler_reason: Why it needs RLlib's default sampler; None if the batched sampler is used.
        new_api_stack: Whether it runs on RLlib's new API stack. The views have the same keys as on the old one.
    """

    training: View
    evaluation: View
    resources: Mapping[str, float]
    default_sampler_reason: str | None
    new_api_stack: bool


def views(run: str, env: str, config: Mapping[str, Any]) -> tuple[View, View]:
    """Returns what RLlib merges a config into, for training and for evaluation.

    Args:
        run: The algorithm's name.
        env: The environment's import path or registered name.
        config: RLlib's config, without unresolved search values; each value has been checked.

    Raises:
        ConfigError: If RLlib rejects a value.
    """
    training = _accepted("config", lambda: merged_config(run, {**config, "env": env}))
    evaluation = _accepted("config: evaluation_config", lambda: evaluation_config(training))
    return _view("config", training), _view("config: evaluation_config", evaluation)


def resources_of(algorithm: type[Algorithm], config: Mapping[str, Any]) -> dict[str, float]:
    """Returns what a trial requests from Ray, evaluation workers included. RLlib validates the config on the way.

    Raises:
        ConfigError: If RLlib rejects the config, or if a worker would request nothing.
    """
    request = _accepted("config", lambda: algorithm.default_resource_request(copy.deepcopy(dict(config))))
    if not all(request.bundles):  # Ray has no place for it, and Tune would crash
        raise ConfigError(
            f"config: expected CPUs or GPUs for each env runner and learner, got {request.bundles}. Give "
            "num_cpus_per_env_runner, or num_cpus_per_learner, a value above 0, such as 0.1."
        )
    resources: dict[str, float] = request.required_resources
    return resources


def is_comm(model: Any) -> bool:
    """Returns whether a `custom_model` is `CommModel`; of a registered model only the name is known."""
    return isinstance(model, type) and issubclass(model, CommModel)


def rllib_message(error: Exception) -> str:
    """Returns RLlib's message in an error, on one line and without the advice on how to suppress it."""
    return " ".join(str(error).split()).partition(" To suppress all validation errors")[0]


def _accepted(what: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ConfigError:
        raise
    except REJECTIONS as error:
        raise ConfigError(
            f"{what}: expected values that RLlib accepts, got: {rllib_message(error)} Change them."
        ) from error


def _view(what: str, config: AlgorithmConfig) -> View:
    policies = _accepted(f"{what}: multiagent: policies", lambda: policy_configs(config))
    return View(what, config, policies, env_class(f"{what}: env", config.env))
