"""The observation spaces of agents."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rllib_tag.errors import ConfigError
from rllib_tag.world.game import Arrays, Game
from rllib_tag.world.layout import MessageLayout
from rllib_tag.world.observations import tag_layout


class MessageSpace(gym.spaces.Box):
    """The space of the last T messages of N agents, with the layout of a message.

    Args:
        num_agents: N.
        length: T.
        layout: The layout of a message.
    """

    def __init__(self, num_agents: int, length: int, layout: MessageLayout) -> None:
        super().__init__(-np.inf, np.inf, (num_agents, length, layout.width), np.float32)
        self.layout = layout

    def __eq__(self, other: Any) -> bool:
        return super().__eq__(other) and self.layout == getattr(other, "layout", None)


def _box(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, shape, np.float32)


def _flags(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(0.0, 1.0, shape, np.float32)


def team_space(game: Game, history_length: int, state: Arrays) -> gym.spaces.Dict:
    """Returns the observation space of a team member, which is the same for all classes.

    Args:
        game: The game.
        history_length: T.
        state: The critics' state of some games, (B, K, D) by kind.
    """
    N = len(game.team)
    spaces = {
        "messages": MessageSpace(N, history_length, game.layout),
        "message_mask": _flags(N, history_length),
        "links": _flags(N, N),
        "self": _flags(N),
    }
    return gym.spaces.Dict({**spaces, **{kind: _box(*values.shape[1:]) for kind, values in state.items()}})


def others_space(observed: Arrays) -> gym.spaces.Dict:
    """Returns the observation space of agents outside the team, given what n of them observe: (B, n, ...) by key."""
    return gym.spaces.Dict({key: _box(*values.shape[2:]) for key, values in observed.items()})


def message_layout(space: gym.spaces.Dict) -> MessageLayout:
    """Returns the layout of the messages in a team member's observation space."""
    found = getattr(space["messages"], "layout", None)
    if found is not None:
        return found
    # RLlib saves spaces without it. Checkpoints of other games get it back when they are read, tag's shapes imply it.
    return tag_layout(space.spaces)


def layout_for(what: str, space: gym.Space) -> MessageLayout | None:
    """Returns the layout of the messages that an agent observes; None for agents outside the team.

    Args:
        what: The name of the model in messages.
        space: The agent's observation space.

    Raises:
        ConfigError: If it is not one of `CommEnv`'s.
    """
    if not isinstance(space, gym.spaces.Dict) or not {"messages", "own"} & set(space.spaces):
        raise ConfigError(f"{what}: expected an observation space of TagEnv or CommEnv, got {space}.")
    return message_layout(space) if "messages" in space.spaces else None
