"""SuperSuit and PettingZoo wrappers, given by import path."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.class_paths import resolve

SUPERSUIT_WRAPPER = re.compile(r"supersuit\.\w+_v\d+")


def resolve_wrapper(entry: Any) -> tuple[Callable[..., ParallelEnv], dict[str, Any]]:
    """Returns the wrapper that an entry of `wrappers:` names, and its arguments.

    Args:
        entry: An import path, or a mapping with the path under `type` and the wrapper's arguments.

    Raises:
        ConfigError: If the path names neither a `BaseParallelWrapper` nor a SuperSuit wrapper, or if the wrapper does
            not take these arguments.
    """
    arguments = dict(entry) if isinstance(entry, Mapping) else {"type": entry}
    path = arguments.pop("type", None)
    found = resolve("wrappers", path)
    if isinstance(path, str) and path.startswith("supersuit."):  # SuperSuit takes tuples, which YAML lacks
        arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    is_class = isinstance(found, type) and issubclass(found, BaseParallelWrapper)
    if not is_class and not SUPERSUIT_WRAPPER.fullmatch(path):
        raise ConfigError(
            "wrappers: expected a SuperSuit wrapper such as supersuit.frame_skip_v0 or a subclass of PettingZoo's "
            f"BaseParallelWrapper, got {path!r}. Name one."
        )
    try:
        inspect.signature(found).bind(None, **arguments)
    except TypeError as error:
        raise ConfigError(f"wrappers: {path}: {error}. Its signature is {inspect.signature(found)}.") from error
    return found, arguments


def wrap(env: ParallelEnv, entries: Sequence[Any]) -> ParallelEnv:
    """Applies wrappers in order and checks that they keep the agents and the spaces, which class views rely on.

    Raises:
        ConfigError: If an entry is not a wrapper, rejects its arguments, or changes the agents, the observation sizes
            or the actions.
    """
    wrapped = env
    for entry in entries:
        wrapper, arguments = resolve_wrapper(entry)
        path = entry["type"] if isinstance(entry, Mapping) else entry
        try:
            wrapped = wrapper(wrapped, **arguments)
        except Exception as error:  # a wrapper's constructor may raise anything
            raise ConfigError(
                f"wrappers: {path} rejects {arguments}: {str(error).rstrip('.')}. Change its arguments."
            ) from error
        if not isinstance(wrapped, ParallelEnv):
            raise ConfigError(
                f"wrappers: expected {path} to return a PettingZoo parallel env, got {type(wrapped)}. Remove it."
            )
        if wrapped.possible_agents != env.possible_agents:
            raise ConfigError(f"wrappers: {path} changes the agents, which class views rely on. Remove it.")
        for agent in env.possible_agents:
            _check_space(
                path, agent, "observation layout", env.observation_space(agent), wrapped.observation_space(agent)
            )
            _check_space(path, agent, "actions", env.action_space(agent), wrapped.action_space(agent))
    return wrapped


def _check_space(path: str, agent: str, what: str, before: gym.Space, after: gym.Space) -> None:
    if (
        type(before) is not type(after)
        or before.shape != after.shape
        or getattr(before, "n", 0) != getattr(after, "n", 0)
    ):
        raise ConfigError(
            f"wrappers: {path} changes the {what} of {agent}: expected {before}, got {after}. "
            "Class views rely on the env's own layout. Remove the wrapper; history_length already stacks steps."
        )
