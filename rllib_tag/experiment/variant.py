"""The configs that RLlib makes of an experiment's: of training, of evaluation, and of every policy in each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.class_paths import env_class
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.model import CommModel
from rllib_tag.plugin.ray_internals import (
    evaluation_config,
    merged_config,
    policy_configs,
)

# What RLlib may raise for a value that it refuses.
REFUSALS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError)


@dataclasses.dataclass(frozen=True)
class View:
    """What the workers of training, or of evaluation, are given.

    Args:
        what: What messages call it.
        config: RLlib's config, all of it.
        policies: The same with each policy's own config merged into it, by the policy's name.
        env: The environment's class; None for a name that is registered with Tune or gymnasium.
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
    def is_ours(self) -> bool:
        """Whether `CommEnv` or `CommModel` has a part in it."""
        return self.comm is not None or any(is_comm(config.model["custom_model"]) for config in self.policies.values())

    @property
    def must_be_batched(self) -> bool:
        """Whether its game says that it is to be sampled on arrays."""
        return self.comm is not None and self.config.env_config.get("backend") == "batched"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A checked config that an experiment's trials may run, resolved.

    Args:
        training: What training's workers are given.
        evaluation: What evaluation's are.
        resources: What a trial asks Ray for, evaluation workers included.
        default_sampler_reason: Why RLlib's default sampler samples it; None if it is sampled on arrays.
    """

    training: View
    evaluation: View
    resources: Mapping[str, float]
    default_sampler_reason: str | None


def views(run: str, env: str, config: Mapping[str, Any]) -> tuple[View, View]:
    """What RLlib merges a config to: for training, and for evaluation.

    Args:
        run: The algorithm's name.
        env: The environment's import path or registered name.
        config: RLlib's config, without unresolved search values, whose values have been checked one by one.

    Raises:
        ConfigError: If RLlib refuses a value.
    """
    training = _merged("config", lambda: merged_config(run, {**config, "env": env}))
    evaluation = _merged("config: evaluation_config", lambda: evaluation_config(training))
    return _view("config", training), _view("config: evaluation_config", evaluation)


def is_comm(model: Any) -> bool:
    """Whether a `custom_model` is `CommModel`; a registered one is known by its name only."""
    return isinstance(model, type) and issubclass(model, CommModel)


def said_by(error: Exception) -> str:
    """What RLlib says in an error, in one line and without its advice on how to silence it."""
    return " ".join(str(error).split()).partition(" To suppress all validation errors")[0]


def _merged(what: str, merge: Callable[[], AlgorithmConfig]) -> AlgorithmConfig:
    try:
        return merge()
    except ConfigError:
        raise
    except REFUSALS as error:
        raise ConfigError(f"{what}: expected values that RLlib accepts, got: {said_by(error)} Change it.") from error


def _view(what: str, config: AlgorithmConfig) -> View:
    policies = _merged(f"{what}: multiagent: policies", lambda: policy_configs(config))
    return View(what, config, policies, env_class(f"{what}: env", config.env))
