"""What RLlib's new API stack does not support of a config that the old one would run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.sampling import DEFAULT_SAMPLER_ONLY
from rllib_tag.experiment.variant import View, resources_of
from rllib_tag.plugin.old_api_stack.model import CommModel
from rllib_tag.plugin.ray_internals import RAY_VERSION, algorithm_defaults

STACK_FLAGS = ("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2")
NEEDS_RAY = (2, 56)  # in 2.55, RLlib's own value targets are wrong and runs do not go on exactly
# Keys that RLlib's new API stack ignores, besides those that only its old sampler has.
OLD_STACK_ONLY = (
    *(set(DEFAULT_SAMPLER_ONLY) - {"restart_failed_sub_environments"}), "shuffle_sequences", "simple_optimizer",
    "num_multi_gpu_tower_stacks", "policy_map_capacity", "keep_per_episode_custom_metrics",
)  # fmt: skip
# Keys that the env runner and the learner on arrays ignore, and those of which RLlib's own runner uses the run's value.
NOT_ON_ARRAYS = ("shuffle_batch_per_epoch", "num_aggregator_actors_per_learner", "create_local_env_runner")
OF_ALL_POLICIES = ("gamma", "lambda_", "explore")
OLD_HOOKS = ("on_create_policy", "on_postprocess_trajectory", "on_learn_on_batch", "on_sub_environment_created")
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
    if RAY_VERSION < NEEDS_RAY:
        raise ConfigError(
            f"config: expected Ray {'.'.join(map(str, NEEDS_RAY))} or later for RLlib's new API stack, got "
            f"{'.'.join(map(str, RAY_VERSION))}. {BACK}"
        )
    if config.get("num_gpus") and config.get("num_gpus_per_learner"):
        raise ConfigError("config: expected num_gpus or num_gpus_per_learner, got both. Remove one.")
    defaults = algorithm_defaults("PPO")
    for view in views:
        on_arrays = default_sampler_reason is None and not view.config.in_evaluation
        named = {view.what: view.config}
        named |= {f"{view.what}: multiagent: policies: {name}": policy for name, policy in view.policies.items()}
        for what, each in named.items():
            for key in (*OLD_STACK_ONLY, *(NOT_ON_ARRAYS if on_arrays else ())):
                if hasattr(defaults, key) and each[key] != defaults[key]:
                    raise _unsupported(f"{what}: {key}", defaults[key], each[key])
            for key in () if on_arrays else OF_ALL_POLICIES:
                if each[key] != view.config[key]:
                    raise _unsupported(f"{what}: {key.rstrip('_')}", view.config[key], each[key])
            if each.exploration_config["type"] != "StochasticSampling":
                raise _unsupported(f"{what}: exploration_config", None, each.exploration_config)
            if view.comm is None or each.model["custom_model"] is not CommModel:
                model = each.model["custom_model"]
                raise _unsupported(f"{what}: model: custom_model", "rllib_tag.CommModel, with TagEnv or CommEnv", model)
        for hook in OLD_HOOKS:
            kind = view.config.callbacks_class
            if getattr(kind, hook, None) is not getattr(DefaultCallbacks, hook, None):
                raise _unsupported(f"{view.what}: callbacks", f"no {hook}, which is never called", kind.__qualname__)
    from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPO  # needs a newer Ray than the rest

    return resources_of(TeamPPO, config)


def _unsupported(what: str, expected: Any, got: Any) -> ConfigError:
    return ConfigError(f"{what}: expected {expected} on RLlib's new API stack, got {got!r}. {BACK}")
