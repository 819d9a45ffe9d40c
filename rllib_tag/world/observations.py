"""What each class sees in tag, and how raw MPE observations split into named fields, with any leading axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rllib_tag.names import POLICIES
from rllib_tag.world.layout import MessageLayout, Senses, present_key
from rllib_tag.world.roster import Roster

# Own numbers are position and velocity. A landmark is its position; a good agent is its position and velocity.
SENSES = Senses(POLICIES, (4, 4), {"landmarks": 2, "good": 4}, {"team": 4, "good": 4, "landmarks": 2})
SEES = {POLICIES[0]: ("landmarks",), POLICIES[1]: ("good",)}


def tag_layout(state: Mapping[str, Any]) -> MessageLayout:
    """Returns the layout of tag's messages, given the critics' state, whose shapes (..., K, D) tell the counts."""
    counts = {kind: state[kind].shape[-2] if kind in state else 0 for kind in SENSES.kinds}
    return MessageLayout(SENSES, counts, varies=present_key("team") in state)


def raw_size(num_adversaries: int, num_good: int, num_obstacles: int, *, good: bool) -> int:
    """Returns the length of one raw `simple_tag_v3` observation.

    With x adversaries, y good agents and z landmarks: 4+2z+2(x-1)+4y for an adversary and
    4+2z+2x+4(y-1) for a good agent.

    Source: mpe2 `simple_tag.Scenario.observation`.
    """
    x, y, z = num_adversaries, num_good, num_obstacles
    return 4 + 2 * z + (2 * x + 4 * (y - 1) if good else 2 * (x - 1) + 4 * y)


@dataclasses.dataclass(frozen=True)
class RawFields:
    """One raw observation as named fields; the positions of others are relative to the observer.

    Shapes, with any leading axes `...`: velocity (..., 2), position (..., 2), landmarks (..., z, 2),
    adversaries (..., x - 1 or x, 2), good (..., y or y - 1, 2), good_velocities (..., y or y - 1, 2);
    the observer itself is in none of them.
    """

    velocity: np.ndarray
    position: np.ndarray
    landmarks: np.ndarray
    adversaries: np.ndarray
    good: np.ndarray
    good_velocities: np.ndarray


def decode(raw: np.ndarray, roster: Roster, num_obstacles: int, *, good: bool) -> RawFields:
    """Splits raw observations into named fields.

    Args:
        raw: (..., D) observations of adversaries, or of good agents, as MPE gives them.
        roster: The agents of the game.
        num_obstacles: The number of landmarks in the game.
        good: Whether the observers are good agents.

    Raises:
        ValueError: If D is not the size of this game's observations.
    """
    x, y, z = roster.num_adversaries, roster.num_good, num_obstacles
    size = raw_size(x, y, z, good=good)
    if raw.shape[-1] != size:
        raise ValueError(f"raw observation: expected {size} numbers in this game, got {raw.shape[-1]}.")
    others, seen_good = (x, y - 1) if good else (x - 1, y)
    lengths = [2, 2, 2 * z, 2 * others, 2 * seen_good]
    parts = np.split(raw, np.cumsum(lengths), axis=-1)
    pairs = [part.reshape(*part.shape[:-1], -1, 2) for part in parts[2:]]
    return RawFields(parts[0], parts[1], *pairs)
