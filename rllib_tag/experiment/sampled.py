"""Sampled values in a config: as a file writes them, as Tune's search space, and at the ends of their ranges."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune

from rllib_tag.errors import ConfigError, check_number
from rllib_tag.plugin.ray_internals import variants

KeyPath = tuple[Any, ...]  # the keys and list indices that lead to a value

SAMPLERS: dict[str, Callable[..., Any]] = {
    "uniform": tune.uniform,
    "loguniform": tune.loguniform,
    "randint": tune.randint,
    "choice": tune.choice,
}


def sampled(value: Any) -> tuple[str, list[Any]] | None:
    """Returns the kind and the arguments of a sampled value such as `{uniform: [0.1, 0.9]}`; None for other values.

    Raises:
        ConfigError: If the arguments do not fit.
    """
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((kind, given),) = value.items()
    if kind not in SAMPLERS:
        return None
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{kind}: expected a list, got {given!r}. Write the values in brackets.")
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
    """Returns a config with Tune's search space in place of every sampled value."""
    found = sampled(value)
    if found is not None:
        kind, given = found
        return SAMPLERS[kind](given) if kind == "choice" else SAMPLERS[kind](*given)
    if isinstance(value, Mapping):
        return {key: with_samplers(inner) for key, inner in value.items()}
    return [with_samplers(inner) for inner in value] if isinstance(value, list) else value


def corners(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns configs that a sweep may run: the whole grid, and the ends or all choices of each sampled value.

    Among several sampled values, only one at a time differs from its first value.

    Raises:
        ConfigError: If a sampled value's arguments do not fit.
    """
    places = list(sampled_places(config))
    first = _put(config, {place: values[0] for place, values in places})
    others = [_put(first, {place: value}) for place, values in places for value in values[1:]]
    return [variant for each in (first, *others) for variant in variants(each)]


def sampled_places(config: Mapping[Any, Any] | list[Any], prefix: KeyPath = ()) -> list[tuple[KeyPath, list[Any]]]:
    """Returns the places of sampled values, and the values they may take: the ends of a range, or all choices."""
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
                    f"{': '.join(map(str, place))}: grid_search: expected a list, got {grid!r}. "
                    "Write the values in brackets."
                )
            out += sampled_places(value, place)
        elif isinstance(value, list):
            out += sampled_places(value, place)
    return out


def _put(config: Any, values: Mapping[KeyPath, Any]) -> Any:
    """Returns a copy of a config with other values at some places."""
    out = copy.copy(config)
    for (key, *rest), value in values.items():
        out[key] = _put(out[key], {tuple(rest): value}) if rest else value
    return out


def has_grid(config: Mapping[str, Any]) -> bool:
    """Returns whether a grid search gives a config several variants."""
    return len(variants(_put(config, {place: values[0] for place, values in sampled_places(config)}))) > 1
