"""The sweep in an experiment file: metric, scheduler and search algorithm."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.schedulers import TrialScheduler, create_scheduler
from ray.tune.search import SearchAlgorithm, Searcher, create_searcher

from rllib_tag.errors import ConfigError, check_choice, check_keys
from rllib_tag.experiment.metrics import TIMES, full_name, has_custom_game, needs_callbacks
from rllib_tag.experiment.population import Population
from rllib_tag.experiment.sampled import has_grid, sampled_places
from rllib_tag.results import RETURN, TEAM_RETURN

# Arguments whose default in Tune, 60, is meant as seconds: with it, a scheduler might never act.
AGES = {"median_stopping": "grace_period", "pbt": "perturbation_interval"}
# Tune's names by those that a file may use, and the arguments that a file gives elsewhere.
SCHEDULERS = {
    "fifo": "fifo", "asha": "async_hyperband", "async_hyperband": "async_hyperband", "pbt": "pbt",
    "median_stopping": "median_stopping_rule",
}  # fmt: skip
SEARCHES = {"random": "random", "optuna": "optuna"}
GIVEN_ELSEWHERE = ("self", "metric", "mode", "space", "custom_explore_fn")


def metric_of(spec: Mapping[str, Any]) -> tuple[str, str]:
    """Returns an experiment's metric, by its full name, and `max` or `min`.

    Raises:
        ConfigError: If there is no such metric.
    """
    mode = spec.get("mode", "max")
    check_choice("mode", mode, ("max", "min"))
    config = spec.get("config", {})
    default = TEAM_RETURN if has_custom_game(config) else RETURN
    return full_name("metric", spec.get("metric", default), config), mode


def check_sweep(spec: Mapping[str, Any]) -> Population | None:
    """Checks an experiment's sweep, except for the values in its config.

    Returns:
        What population-based training may change; None with other schedulers.

    Raises:
        ConfigError: On the first value that does not fit.
    """
    metric, _ = metric_of(spec)
    scheduler_of(spec)
    search_of(spec)
    scheduler, config, samples = spec.get("scheduler", {}), spec.get("config", {}), spec.get("num_samples", 1)
    if {"scheduler", "search"} & spec.keys() and needs_callbacks(metric) and not config.get("callbacks"):
        raise ConfigError(
            f"metric: expected callbacks: rllib_tag.TagCallbacks in config, without which no run has "
            f"{metric}, got none. Add it."
        )
    if str(scheduler.get("type")).lower() == "pbt":
        kept = (spec.get("checkpoint_config") or {}).get("num_to_keep")
        if kept is not None and kept < 3:
            raise ConfigError(
                f"scheduler: pbt: expected checkpoint_config: num_to_keep of at least 3, got {kept}: a trial must "
                "still find the checkpoint that it copies. Raise it."
            )
        return Population(scheduler["hyperparam_mutations"])
    if samples > 1 and isinstance(config.get("seed"), int) and not sampled_places(config):
        raise ConfigError(
            f"num_samples: expected trials that differ, got {samples} of each config, all with seed {config['seed']}. "
            f"Write seed: {{grid_search: [1, 2, …]}} instead, or sample a value."
        )
    return None


def scheduler_of(spec: Mapping[str, Any]) -> TrialScheduler:
    """Returns Tune's scheduler for an experiment. Default: first in, first out.

    Raises:
        ConfigError: If there is no such scheduler or an argument does not fit.
    """
    metric, mode = metric_of(spec)
    kind, given = _typed("scheduler", spec.get("scheduler", {"type": "fifo"}), SCHEDULERS)
    if kind == "fifo":
        check_keys("scheduler: fifo", given, ())
        return create_scheduler("fifo")
    ours: dict[str, Any] = {"metric": metric, "mode": mode}
    if "time_attr" in given:
        check_choice("scheduler: time_attr", given["time_attr"], TIMES)
    given = _fitted_to_stop(kind, given, spec.get("stop", {}))
    if kind == "pbt":
        given.setdefault("require_attrs", False)  # before the first episode ends there is no return
        ours |= Population(given.get("hyperparam_mutations", {})).arguments()
    return _build(f"scheduler: {kind}", create_scheduler, SCHEDULERS[kind], given, ours)


def _fitted_to_stop(kind: str, given: dict[str, Any], stop: Mapping[str, float]) -> dict[str, Any]:
    """Returns a scheduler's arguments, with replacements for the defaults of Tune that do not fit `stop`.

    Raises:
        ConfigError: If `stop` does not determine the replacement.
    """
    if SCHEDULERS[kind] == "async_hyperband" and "max_t" not in given:  # Tune would end every trial at 100
        times = [given["time_attr"]] if "time_attr" in given else [time for time in TIMES if time in stop]
        if not times or times[0] not in stop:
            raise ConfigError(
                f"scheduler: {kind}: expected max_t, or {' or '.join(times or TIMES)} in stop to take it from, got "
                "neither. Give max_t."
            )
        longest = stop[times[0]]
        # Tune's default grace_period is 1 of 100; as time steps or seconds, 1 would end trials at their first result.
        return {"grace_period": min(longest, max(1, longest // 100)), **given, "time_attr": times[0], "max_t": longest}
    key = AGES.get(kind, "")
    longest = stop.get(given.get("time_attr", "time_total_s"), math.inf)
    if key and key not in given and longest <= 60:
        raise ConfigError(
            f"scheduler: {kind}: expected {key}, got none: it would be 60, but trials stop at {longest:g}. Set a "
            "lower one."
        )
    return given


def search_of(spec: Mapping[str, Any]) -> SearchAlgorithm | Searcher | None:
    """Returns Tune's search algorithm for an experiment; None for random draws and grids.

    Raises:
        ConfigError: If there is no such algorithm, it is not installed, or an argument does not fit.
    """
    if "search" not in spec:
        return None
    metric, mode = metric_of(spec)
    kind, given = _typed("search", spec["search"], SEARCHES)
    config = spec.get("config", {})
    if kind == "random":
        check_keys("search: random", given, ())
        return None
    if not sampled_places(config):
        raise ConfigError(
            f"search: {kind}: expected values to sample in config, got none. Add e.g. lr: {{loguniform: …}}."
        )
    if has_grid(config):
        raise ConfigError(f"search: {kind}: expected only values to sample, got a grid_search, too. Make it a choice.")
    return _build(f"search: {kind}", create_searcher, SEARCHES[kind], given, {"metric": metric, "mode": mode})


def _typed(what: str, given: Any, known: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Returns the type and the other arguments of a mapping such as `{type: asha, max_t: 9}`."""
    if not isinstance(given, Mapping) or "type" not in given:
        raise ConfigError(f"{what}: expected a mapping with its type, got {given!r}. Write {{type: …}}.")
    kind = str(given["type"]).lower()
    check_choice(f"{what}: type", kind, tuple(known))
    return kind, {key: value for key, value in given.items() if key != "type"}


def _build(what: str, create: Callable[..., Any], name: str, given: dict[str, Any], ours: dict[str, Any]) -> Any:
    """Builds one of Tune's objects. Unknown arguments, which Tune would drop, are errors."""
    try:
        made = create(name, **{**given, **ours})
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise ConfigError(f"{what}: expected arguments that it accepts, got: {error} Change them.") from error
    known = inspect.signature(type(made).__init__).parameters
    check_keys(what, given, [key for key in known if key not in GIVEN_ELSEWHERE])
    return made
