"""The error that invalid user input raises, and the checks that all configurations share."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class ConfigError(ValueError):
    """User input is invalid; the message says what was expected, what was given and what to do."""


def check_keys(what: str, given: Iterable[Any], known: Iterable[str], advice: str = "") -> None:
    """Raises on the first key of `given` that is not in `known`, naming the nearest known one.

    Args:
        what: What the keys belong to; the message begins with it.
        given: The keys that were given.
        known: The valid keys.
        advice: The last sentence of the message, without its period. Default: a list of the valid keys.

    Raises:
        ConfigError: If a key is unknown.
    """
    known = sorted(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{what}: unknown key {key!r}. {hint}{advice or 'Expected one of: ' + ', '.join(known)}.")


def check_int(what: str, value: Any, minimum: int) -> None:
    """Raises unless `value` is an integer of at least `minimum` (a bool is not an integer)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(
            f"{what}: expected an integer of at least {minimum}, got {value!r}. Set it to {minimum} or more."
        )


def check_number(what: str, value: Any, minimum: float, maximum: float = math.inf) -> None:
    """Raises unless `value` is a real number in [minimum, maximum]; NaN is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value <= maximum:
        bound = f"of at least {minimum:g}" if maximum == math.inf else f"between {minimum:g} and {maximum:g}"
        raise ConfigError(f"{what}: expected a number {bound}, got {value!r}. Set it within these bounds.")


def check_bool(what: str, value: Any) -> None:
    """Raises unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{what}: expected true or false, got {value!r}. Write one of the two.")


def check_choice(what: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(
            f"{what}: expected one of {', '.join(map(str, choices))}, got {value!r}. Choose one of these."
        )


def dataclass_from_mapping(cls: type, what: str, mapping: Mapping[str, Any]) -> Any:
    """Builds the dataclass `cls` from a mapping; errors begin with `what` and name the nearest known key."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{what}: expected a mapping of keys to values, got {mapping!r}.")
    check_keys(what, mapping, [field.name for field in dataclasses.fields(cls)])
    with under(what):
        return cls(**mapping)


def reason_of(error: BaseException) -> str:
    """Returns why an exception was raised, in words: not the number of a system error or the bare name of a key."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"no {error}"
    return str(error).rstrip(".") or type(error).__name__


@contextlib.contextmanager
def under(what: str) -> Iterator[None]:
    """Prefixes the message of a `ConfigError` with the part of the input that it is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
