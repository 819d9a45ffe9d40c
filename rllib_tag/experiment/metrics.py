"""The metrics in a run's results, by the names that a file may use in stop criteria, checkpoints and schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_tag.errors import check_keys
from rllib_tag.experiment.new_api_stack import is_for_new_api_stack
from rllib_tag.names import METRICS, METRICS_OF_ALL_GAMES
from rllib_tag.results import CUSTOM

KINDS = ("mean", "min", "max")
# RLlib's and Tune's own metrics, by their names.
RLLIB_METRICS = (
    *(f"env_runners/episode_reward_{kind}" for kind in KINDS),
    "env_runners/episode_len_mean", "timesteps_total", "training_iteration", "time_total_s",
)  # fmt: skip
# Numbers that only grow.
COUNTERS = ("num_env_steps_sampled_lifetime", "num_env_steps_sampled", "num_agent_steps_sampled")
TIMES = ("training_iteration", "timesteps_total", "time_total_s", *COUNTERS)
OLD_STACK_ONLY = ("num_agent_steps_sampled",)  # as policies' rewards are
OURS = "rllib_tag.TagCallbacks"


def full_name(what: str, metric: Any, config: Mapping[str, Any]) -> str:
    """Returns a metric's full name in RLlib's results. This project's own metrics may be given without prefix.

    Args:
        what: What the message calls it.
        metric: The name in the file.
        config: RLlib's config, which says whether evaluation and other callbacks add metrics.

    Raises:
        ConfigError: If there is no such metric.
    """
    known = _known(config)
    if isinstance(metric, str) and _may_be_custom(metric, config):
        return metric
    check_keys(what, [metric], known)
    return known[metric]


def has_custom_game(config: Mapping[str, Any]) -> bool:
    """Returns whether RLlib's config, which may not have been checked yet, names another game than tag."""
    env_config = config.get("env_config")
    return isinstance(env_config, Mapping) and "game" in env_config


def needs_callbacks(metric: str) -> bool:
    """Returns whether only callbacks add a metric to the results."""
    return metric.removeprefix("evaluation/").startswith(CUSTOM)


def _known(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the full names of all metrics, by the names that a file may use."""
    multiagent = config.get("multiagent")
    policies = multiagent.get("policies") if isinstance(multiagent, dict) else None
    of_game = METRICS_OF_ALL_GAMES if has_custom_game(config) else METRICS
    ours = {f"{name}_{kind}": f"{CUSTOM}{name}_{kind}" for name in of_game for kind in KINDS}
    names = [*ours.values(), *RLLIB_METRICS, *COUNTERS]
    if isinstance(policies, (list, dict)):
        names += [f"env_runners/policy_reward_{kind}/{policy}" for policy in policies for kind in KINDS]
    if config.get("evaluation_interval"):
        names += [f"evaluation/{name}" for name in names if name.startswith("env_runners/")]
    if is_for_new_api_stack(config):
        names = [name for name in names if name not in OLD_STACK_ONLY and "/policy_reward_" not in name]
    return {**ours, **dict(zip(names, names, strict=True))}


def _may_be_custom(metric: str, config: Mapping[str, Any]) -> bool:
    """Returns whether callbacks or games other than this project's may add a metric of this name."""
    is_of_evaluation = metric.startswith("evaluation/")
    is_custom = metric.removeprefix("evaluation/").startswith(CUSTOM) and metric.rpartition("_")[2] in KINDS
    return (
        is_custom
        and (has_custom_game(config) or config.get("callbacks") not in (None, OURS))
        and (not is_of_evaluation or bool(config.get("evaluation_interval")))
    )
