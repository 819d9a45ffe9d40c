"""What a run's results hold, by the names that a file may give: for stop, for checkpoints, for schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_tag.errors import check_keys
from rllib_tag.names import METRICS
from rllib_tag.results import CUSTOM

KINDS = ("mean", "min", "max")
OWN_METRICS = {f"{name}_{kind}": f"{CUSTOM}{name}_{kind}" for name in METRICS for kind in KINDS}
# What a run's results hold besides this project's own metrics, as RLlib and Tune name it.
RLLIB_METRICS = (
    *(f"env_runners/episode_reward_{kind}" for kind in KINDS),
    "env_runners/episode_len_mean", "timesteps_total", "training_iteration", "time_total_s",
)  # fmt: skip
# Numbers that only grow.
COUNTERS = ("num_env_steps_sampled_lifetime", "num_env_steps_sampled", "num_agent_steps_sampled")
TIMES = ("training_iteration", "timesteps_total", "time_total_s", *COUNTERS)
OURS = "rllib_tag.TagCallbacks"


def whole_name(what: str, metric: Any, config: Mapping[str, Any]) -> str:
    """A metric's place in RLlib's result; this project's own also go without what stands in front.

    Args:
        what: What the message should call it.
        metric: The name that the file gives.
        config: RLlib's config, which says whether evaluation and other callbacks add metrics.

    Raises:
        ConfigError: If there is no such metric.
    """
    known = _known(config)
    if isinstance(metric, str) and _may_be_a_labs_own(metric, config):
        return metric
    check_keys(what, [metric], known)
    return known[metric]


def has_labs_game(config: Mapping[str, Any]) -> bool:
    """Whether RLlib's config, which may not have been checked yet, is of another game than tag."""
    env_config = config.get("env_config")
    return isinstance(env_config, Mapping) and "game" in env_config


def needs_callbacks(metric: str) -> bool:
    """Whether only callbacks put a metric into the results."""
    return metric.removeprefix("evaluation/").startswith(CUSTOM)


def _known(config: Mapping[str, Any]) -> dict[str, str]:
    """The whole names of all metrics by those that a file may give."""
    multiagent = config.get("multiagent")
    policies = multiagent.get("policies") if isinstance(multiagent, dict) else None
    names = [*OWN_METRICS.values(), *RLLIB_METRICS, *COUNTERS]
    if isinstance(policies, (list, dict)):
        names += [f"env_runners/policy_reward_{kind}/{policy}" for policy in policies for kind in KINDS]
    if config.get("evaluation_interval"):
        names += [f"evaluation/{name}" for name in names if name.startswith("env_runners/")]
    return {**OWN_METRICS, **dict(zip(names, names, strict=True))}


def _may_be_a_labs_own(metric: str, config: Mapping[str, Any]) -> bool:
    """Callbacks, and games, other than this project's may add metrics of any name."""
    evaluated = metric.startswith("evaluation/")
    own = metric.removeprefix("evaluation/").startswith(CUSTOM) and metric.rpartition("_")[2] in KINDS
    return (
        own
        and (has_labs_game(config) or config.get("callbacks") not in (None, OURS))
        and (not evaluated or bool(config.get("evaluation_interval")))
    )
