"""What RLlib's new API stack does not support of a config that the old one would run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ray

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.sampling import DEFAULT_SAMPLER_ONLY
from rllib_tag.experiment.variant import REJECTIONS, View, rllib_message
from rllib_tag.plugin.old_api_stack.model import CommModel
from rllib_tag.plugin.ray_internals import algorithm_defaults

STACK_FLAGS = ("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2")
NEEDS_RAY = (2, 60)  # in 2.55, RLlib's own value targets are wrong and runs do not go on exactly
# Keys that RLlib's new API stack ignores, besides those that only its old sampler has.
OLD_STACK_ONLY = (
    *DEFAULT_SAMPLER_ONLY, "shuffle_sequences", "simple_optimizer", "num_multi_gpu_tower_stacks",
    "policy_map_capacity", "keep_per_episode_custom_metrics",
)  # fmt: skip
BACK = f"Change it, or set {' and '.join(STACK_FLAGS)} to false."


def is_for_new_api_stack(config: Mapping[str, Any]) -> bool:
    """Returns whether a config is for RLlib's new API stack, which is RLlib's default.

    Raises:
        ConfigError: If it is for neither, or for another one in evaluation.
    """
    flags = [config.get(flag, True) for flag in STACK_FLAGS]
    evaluation = config.get("evaluation_config")
    own = [flag for flag in STACK_FLAGS if isinstance(evaluation, Mapping) and flag in evaluation]
    if flags not in ([True, True], [False, False]) or own:
        found = f"{own[0]} in evaluation_config" if own else str(flags)
        raise ConfigError(
            f"config: expected {' and '.join(STACK_FLAGS)}, both true for RLlib's new API stack or both false for the "
            f"old one, got {found}. Set both, for the whole run."
        )
    return flags[0]


def check_new_api_stack(
    config: Mapping[str, Any], views: Iterable[View], default_sampler_reason: str | None
) -> dict[str, float]:
    """Checks what the new API stack does not support, and returns what a trial requests from Ray.

    Args:
        config: The whole config of PPO, the environment included.
        views: What RLlib's old API stack would make of it.
        default_sampler_reason: Why the run cannot be sampled on arrays; None if it can.

    Raises:
        ConfigError: On the first value that it would ignore, or that RLlib rejects.
    """
    if tuple(map(int, ray.__version__.split(".")[:2])) < NEEDS_RAY:
        raise ConfigError(
            f"config: expected Ray {'.'.join(map(str, NEEDS_RAY))} or later for RLlib's new API stack, got "
            f"{ray.__version__}. {BACK}"
        )
    defaults = algorithm_defaults("PPO")
    for view in views:
        for key in OLD_STACK_ONLY:
            if hasattr(defaults, key) and view.config[key] != defaults[key]:
                raise _unsupported(f"{view.what}: {key}", str(defaults[key]), view.config[key])
        if view.config.exploration_config["type"] != "StochasticSampling":
            raise _unsupported(f"{view.what}: exploration_config", "none", view.config.exploration_config)
        for name, policy in view.policies.items():
            for key in ("gamma", "lambda_") if default_sampler_reason else ():
                if policy[key] != view.config[key]:
                    what = f"{view.what}: multiagent: policies: {name}: {key.rstrip('_')}"
                    raise _unsupported(what, f"{view.config[key]} as in all policies", policy[key])
        model = view.config.model["custom_model"]
        if view.comm is None or model is not CommModel:
            raise _unsupported(
                f"{view.what}: model: custom_model", "rllib_tag.CommModel, with an env of this project", model
            )
    from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPO  # needs a newer Ray than the rest

    try:
        return TeamPPO.default_resource_request({**config}).required_resources
    except REJECTIONS as error:
        raise ConfigError(f"config: expected a config that RLlib accepts, got: {rllib_message(error)}") from error


def _unsupported(what: str, expected: str, got: Any) -> ConfigError:
    return ConfigError(f"{what}: expected {expected} on RLlib's new API stack, got {got!r}. {BACK}")
