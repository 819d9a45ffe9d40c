"""The error that invalid user input raises, and the checks that all configurations share."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LONG_LIST = 24  # of known keys, which a message leaves out if it is clear which one is meant
# Code between a user's and the error: this project's own, what runs games, and the standard library.
NOT_USERS = {"rllib_tag", "numpy", "torch", "gymnasium", "pettingzoo", "supersuit", *sys.stdlib_module_names}


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
            hint = did_you_mean(key, known, cutoff=0.5)
            if not advice and len(known) > LONG_LIST and did_you_mean(key, known, cutoff=0.8):
                raise ConfigError(f"{what}: unknown key {key!r}. {hint.rstrip()}")
            raise ConfigError(f"{what}: unknown key {key!r}. {hint}{advice or 'Expected one of: ' + ', '.join(known)}.")


def did_you_mean(given: Any, known: Iterable[Any], cutoff: float = 0.6) -> str:
    """Returns a sentence that names the nearest known value, with a space after it; empty if none is near."""
    near = difflib.get_close_matches(str(given), list(map(str, known)), n=1, cutoff=cutoff)
    return f"Did you mean {near[0]!r}? " if near else ""


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
        hint = did_you_mean(value, choices)
        raise ConfigError(
            f"{what}: expected one of {', '.join(map(str, choices))}, got {value!r}. {hint}Choose one of these."
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


def raised(error: BaseException) -> str:
    """Returns the type of an exception and what it says, and where in a user's code it was raised, if it was there."""
    said = str(error).rstrip(".")
    told = f"{type(error).__name__}: {said}" if said else type(error).__name__
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in NOT_USERS or module.startswith("rllib_tag.games."):
            owner, name = frame.f_locals.get("self"), frame.f_code.co_name
            method = name if owner is None else f"{type(owner).__name__}.{name}"
            return f"{told}, raised in {method} ({os.path.relpath(frame.f_code.co_filename)}, line {line})"
    return told


@contextlib.contextmanager
def under(what: str) -> Iterator[None]:
    """Prefixes the message of a `ConfigError` with the part of the input that it is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
