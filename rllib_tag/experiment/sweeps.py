"""What an experiment file may say of a sweep: sampled values, metric, scheduler, search algorithm."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler, create_scheduler
from ray.tune.search import SearchAlgorithm, Searcher, create_searcher

from rllib_tag.errors import ConfigError, check_choice, check_keys, check_number, under
from rllib_tag.experiment.metrics import TIMES, needs_callbacks, whole_name
from rllib_tag.plugin.ray_internals import variants
from rllib_tag.results import RETURN

KeyPath = tuple[Any, ...]  # the keys, and the places in lists, that lead to a value
SWEEP_KEYS = ("metric", "mode", "scheduler", "search")  # of an experiment
# Tune's own value, which is meant for seconds and could keep a scheduler from ever doing anything.
AGES = {"median_stopping": "grace_period", "pbt": "perturbation_interval"}
# Tune's names by those that a file may say, and the arguments that the file gives elsewhere.
SCHEDULERS = {
    "fifo": "fifo", "asha": "async_hyperband", "async_hyperband": "async_hyperband", "pbt": "pbt",
    "median_stopping": "median_stopping_rule",
}  # fmt: skip
SEARCHES = {"random": "random", "optuna": "optuna"}
GIVEN_ELSEWHERE = ("self", "metric", "mode", "space", "custom_explore_fn")
# What a population may change while it is trained: numbers that the learner reads anew in every step.
MUTABLE = ("lr", "lambda", "gamma", "clip_param", "entropy_coeff", "vf_loss_coeff", "grad_clip", "num_epochs")

SAMPLERS: dict[str, Callable[..., Any]] = {
    "uniform": tune.uniform,
    "loguniform": tune.loguniform,
    "randint": tune.randint,
    "choice": tune.choice,
}


def sampled(value: Any) -> tuple[str, list[Any]] | None:
    """The kind and the arguments of a value that is to be sampled, such as `{uniform: [0.1, 0.9]}`; else None.

    Raises:
        ConfigError: If the arguments do not fit.
    """
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((kind, given),) = value.items()
    if kind not in SAMPLERS:
        return None
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{kind}: expected a list, got {given!r}. Write one.")
    if kind == "choice":
        return kind, given
    if len(given) != 2:
        raise ConfigError(f"{kind}: expected [lowest, highest], got {given!r}. Write two numbers.")
    for number in given:
        check_number(kind, number, 1e-300 if kind == "loguniform" else -1e300)
        if kind == "randint" and not isinstance(number, int):
            raise ConfigError(f"randint: expected integers, got {given!r}. Write two.")
    if given[0] >= given[1]:
        raise ConfigError(f"{kind}: expected [lowest, highest], got {given!r}. Put the lower number first.")
    return kind, given


def with_samplers(value: Any) -> Any:
    """A config with Tune's search space in place of every value that is to be sampled."""
    found = sampled(value)
    if found is not None:
        kind, given = found
        return SAMPLERS[kind](given) if kind == "choice" else SAMPLERS[kind](*given)
    if isinstance(value, Mapping):
        return {key: with_samplers(inner) for key, inner in value.items()}
    return [with_samplers(inner) for inner in value] if isinstance(value, list) else value


def corners(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Configs that a sweep may run: all of its grid, and for each sampled value its ends, or all of its choices.

    Of several sampled values, one at a time leaves its first value.

    Raises:
        ConfigError: If a sampled value's arguments do not fit.
    """
    places = list(_places(config))
    first = _put(config, {place: values[0] for place, values in places})
    others = [_put(first, {place: value}) for place, values in places for value in values[1:]]
    return [variant for each in (first, *others) for variant in variants(each)]


def _places(config: Mapping[Any, Any] | list[Any], prefix: KeyPath = ()) -> list[tuple[KeyPath, list[Any]]]:
    """Where values are to be sampled, and which they may be: ends of a range, or all choices."""
    out: list[tuple[KeyPath, list[Any]]] = []
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        place = (*prefix, key)
        try:
            found = sampled(value)
        except ConfigError as error:
            raise ConfigError(f"{': '.join(map(str, place))}: {error}") from error
        if found is not None:
            kind, given = found
            out.append((place, [given[0], given[1] - 1] if kind == "randint" else given))
        elif isinstance(value, Mapping):
            grid = value.get("grid_search", [None])
            if not isinstance(grid, list) or not grid:
                raise ConfigError(
                    f"{': '.join(map(str, place))}: grid_search: expected a list, got {grid!r}. Write one."
                )
            out += _places(value, place)
        elif isinstance(value, list):
            out += _places(value, place)
    return out


def _put(config: Any, values: Mapping[KeyPath, Any]) -> Any:
    """A config with other values at some places."""
    out = copy.copy(config)
    for (key, *rest), value in values.items():
        out[key] = _put(out[key], {tuple(rest): value}) if rest else value
    return out


def mutated(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A population's config with all that it may be changed to in place of where it begins."""
    mutations = spec.get("scheduler", {}).get("hyperparam_mutations", {})
    choices = {key: {"choice": value} if isinstance(value, list) else value for key, value in mutations.items()}
    return {**spec.get("config", {}), **choices}


def _put_first(spec: Mapping[str, Any]) -> dict[str, Any]:
    config = spec.get("config", {})
    return _put(config, {place: values[0] for place, values in _places(config)})


def metric_of(spec: Mapping[str, Any]) -> tuple[str, str]:
    """The metric of an experiment, by its whole name, and `max` or `min`.

    Raises:
        ConfigError: If there is no such metric.
    """
    mode = spec.get("mode", "max")
    check_choice("mode", mode, ("max", "min"))
    return whole_name("metric", spec.get("metric", RETURN), spec.get("config", {})), mode


def check_sweep(spec: Mapping[str, Any]) -> None:
    """Checks what an experiment says of its sweep, without the config's values.

    Raises:
        ConfigError: On the first thing that does not fit.
    """
    metric, _ = metric_of(spec)
    scheduler_of(spec)
    search_of(spec)
    config, samples = spec.get("config", {}), spec.get("num_samples", 1)
    if {"scheduler", "search"} & spec.keys() and needs_callbacks(metric) and not config.get("callbacks"):
        raise ConfigError(
            f"metric: expected callbacks: rllib_tag.TagCallbacks in config, without which no run has {metric}, got "
            "none. Add it."
        )
    alike = samples > 1 and isinstance(config.get("seed"), int) and not _places(config)
    if alike and str(spec.get("scheduler", {}).get("type")).lower() != "pbt":
        raise ConfigError(
            f"num_samples: expected trials that differ, got {samples} of each config, all with seed {config['seed']}. "
            f"Write seed: {{grid_search: [1, 2, …]}} instead, or sample something."
        )


def check_population(spec: Mapping[str, Any]) -> None:
    """Checks what population-based training needs.

    Args:
        spec: The experiment.

    Raises:
        ConfigError: If a trial might not find the checkpoint that it is to take over.
    """
    scheduler = spec.get("scheduler", {})
    kept = (spec.get("checkpoint_config") or {}).get("num_to_keep")
    if str(scheduler.get("type")).lower() == "pbt" and kept is not None and kept < 3:
        raise ConfigError(
            f"scheduler: pbt: expected checkpoint_config: num_to_keep of at least 3, got {kept}: a trial must find the "
            "checkpoint that it takes over. Raise it."
        )


def scheduler_of(spec: Mapping[str, Any]) -> TrialScheduler:
    """Tune's scheduler for an experiment; first in, first out where it names none.

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
    given = _as_long_as(kind, given, spec.get("stop", {}))
    if kind == "pbt":
        mutations = given.get("hyperparam_mutations")
        if not isinstance(mutations, Mapping) or not mutations:
            raise ConfigError(
                "scheduler: pbt: expected hyperparam_mutations: {key: what to try}, "
                f"got {mutations!r}. Name at least one of {', '.join(MUTABLE)}."
            )
        check_keys("scheduler: hyperparam_mutations", mutations, MUTABLE)
        for key, value in mutations.items():
            _check_mutation(f"scheduler: hyperparam_mutations: {key}", value)
        given.setdefault("require_attrs", False)  # before the first episode ends there is no return
        ours |= {"hyperparam_mutations": with_samplers(mutations), "custom_explore_fn": WithinRanges.of(mutations)}
    return _build(f"scheduler: {kind}", create_scheduler, SCHEDULERS[kind], given, ours)


def _as_long_as(kind: str, given: dict[str, Any], stop: Mapping[str, float]) -> dict[str, Any]:
    """A scheduler's arguments, without those defaults of Tune's that contradict how long `stop` lets trials be.

    Raises:
        ConfigError: If `stop` does not say what takes a default's place.
    """
    if SCHEDULERS[kind] == "async_hyperband" and "max_t" not in given:  # Tune would end every trial at 100
        times = [given["time_attr"]] if "time_attr" in given else [time for time in TIMES if time in stop]
        if not times or times[0] not in stop:
            raise ConfigError(
                f"scheduler: {kind}: expected max_t, or {' or '.join(times or TIMES)} in stop to take it from, got "
                "neither. Give max_t."
            )
        longest = stop[times[0]]
        # Tune's own grace_period is 1 of 100; of time steps or seconds, 1 would end trials at their first result.
        return {"grace_period": min(longest, max(1, longest // 100)), **given, "time_attr": times[0], "max_t": longest}
    key = AGES.get(kind, "")
    longest = stop.get(given.get("time_attr", "time_total_s"), math.inf)
    if key and key not in given and longest <= 60:
        raise ConfigError(
            f"scheduler: {kind}: expected {key}, without which it is 60, when trials that stop at {longest:g} have "
            "ended, got none. Give one."
        )
    return given


def _check_mutation(what: str, value: Any) -> None:
    """Tune would take any other mapping for further keys, and find out at the first perturbation."""
    with under(what):
        found = sampled(value)
    choices = found[1] if found is not None else value
    if not isinstance(choices, list) or not choices or any(isinstance(choice, (list, Mapping)) for choice in choices):
        raise ConfigError(
            f"{what}: expected a list of values, or a range such as {{uniform: [0.1, 0.9]}}, got {value!r}. Write one."
        )


@dataclasses.dataclass(frozen=True)
class WithinRanges:
    """Brings what Tune has perturbed by its factors back to the ends of the ranges.

    Args:
        ranges: Lowest and highest value by key.
    """

    ranges: Mapping[str, tuple[float, float]]

    @staticmethod
    def of(mutations: Mapping[str, Any]) -> WithinRanges:
        """The ranges of those mutations that have one; a list of choices has none."""
        ranges = [(key, ends) for (key,), ends in _places(mutations) if "choice" not in mutations[key]]
        return WithinRanges({key: (low, high) for key, (low, high) in ranges})

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config with every value in its range."""
        return {**config, **{key: min(max(config[key], low), high) for key, (low, high) in self.ranges.items()}}


def search_of(spec: Mapping[str, Any]) -> SearchAlgorithm | Searcher | None:
    """Tune's search algorithm for an experiment; None where it draws at random and goes through grids.

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
    if not _places(config):
        raise ConfigError(
            f"search: {kind}: expected values to sample in config, got none. Add e.g. lr: {{loguniform: …}}."
        )
    if len(variants(_put_first(spec))) > 1:
        raise ConfigError(f"search: {kind}: expected values to sample, got a grid_search too. Make it a choice.")
    return _build(f"search: {kind}", create_searcher, SEARCHES[kind], given, {"metric": metric, "mode": mode})


def _typed(what: str, given: Any, known: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The type and the other arguments of a mapping such as `{type: asha, max_t: 9}`."""
    if not isinstance(given, Mapping) or "type" not in given:
        raise ConfigError(f"{what}: expected a mapping with its type, got {given!r}. Write {{type: …}}.")
    kind = str(given["type"]).lower()
    check_choice(f"{what}: type", kind, tuple(known))
    return kind, {key: value for key, value in given.items() if key != "type"}


def _build(what: str, create: Callable[..., Any], name: str, given: dict[str, Any], ours: dict[str, Any]) -> Any:
    """Tune drops arguments that it does not know; here they are errors."""
    try:
        made = create(name, **{**given, **ours})
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise ConfigError(f"{what}: expected arguments that it takes, got: {error} Change them.") from error
    known = inspect.signature(type(made).__init__).parameters
    check_keys(what, given, [key for key in known if key not in GIVEN_ELSEWHERE])
    return made
