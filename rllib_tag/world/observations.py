"""Raw MPE vectors to named fields, to class views, to messages: pure functions over any leading axes."""

from __future__ import annotations

import dataclasses

import numpy as np

from rllib_tag.world.roster import CLASS_A, CLASS_B, Roster


def raw_size(num_adversaries: int, num_good: int, num_obstacles: int, *, good: bool) -> int:
    """The length of one raw `simple_tag_v3` observation.

    With x adversaries, y good agents and z landmarks: 4+2z+2(x-1)+4y for an adversary and
    4+2z+2x+4(y-1) for a good agent.

    Source: mpe2 `simple_tag.Scenario.observation`.
    """
    x, y, z = num_adversaries, num_good, num_obstacles
    return 4 + 2 * z + (2 * x + 4 * (y - 1) if good else 2 * (x - 1) + 4 * y)


@dataclasses.dataclass(frozen=True)
class RawFields:
    """One raw observation by name; positions of others are relative to the observer.

    Shapes, with any leading axes `...`: velocity (..., 2), position (..., 2), landmarks (..., z, 2),
    adversaries (..., x - 1 or x, 2), good (..., y or y - 1, 2), good_velocities (..., y or y - 1, 2);
    the observer itself is in none of the lists.
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
        roster: The team that was observed.
        num_obstacles: Landmarks in the game.
        good: Whether the observers are good agents.

    Raises:
        ValueError: If D is not the size that this team's observations have.
    """
    x, y, z = roster.num_adversaries, roster.num_good, num_obstacles
    size = raw_size(x, y, z, good=good)
    if raw.shape[-1] != size:
        raise ValueError(f"raw observation: expected {size} numbers for this team, got {raw.shape[-1]}.")
    others, seen_good = (x, y - 1) if good else (x - 1, y)
    lengths = [2, 2, 2 * z, 2 * others, 2 * seen_good]
    parts = np.split(raw, np.cumsum(lengths), axis=-1)
    pairs = [part.reshape(*part.shape[:-1], -1, 2) for part in parts[2:]]
    return RawFields(parts[0], parts[1], *pairs)


def class_view(fields: RawFields, adversary_class: int) -> np.ndarray:
    """What an adversary of a class sees, in absolute coordinates.

    Class A: own position, own velocity, position of every landmark, (1, 0): (..., 6 + 2z).
    Class B: own position, own velocity, position and velocity of every good agent, (0, 1): (..., 6 + 4y).
    """
    lead, own = fields.position.shape[:-1], fields.position[..., None, :]
    if adversary_class == CLASS_A:
        seen = fields.landmarks + own
    else:
        seen = np.concatenate([fields.good + own, fields.good_velocities], axis=-1)
    one_hot = np.broadcast_to(np.eye(2, dtype=fields.position.dtype)[adversary_class], (*lead, 2))
    return np.concatenate([fields.position, fields.velocity, seen.reshape(*lead, -1), one_hot], axis=-1)


@dataclasses.dataclass(frozen=True)
class MessageLayout:
    """Where the parts of a message stand, the same for both classes so that messages stack.

    A message is the sender's class view with room for what the other class sees: own position and
    velocity (4), landmarks (2z), good agents (4y), whether the sender sees landmarks and good agents
    (2), class one-hot (2). What the sender does not see is zero and flagged as unseen.

    Args:
        num_good: y, good agents in the game.
        num_obstacles: z, landmarks in the game.
    """

    num_good: int
    num_obstacles: int

    @property
    def width(self) -> int:
        """F, the numbers of one message: 8 + 2z + 4y."""
        return 8 + 2 * self.num_obstacles + 4 * self.num_good

    @property
    def own(self) -> slice:
        """Own position and velocity."""
        return slice(0, 4)

    @property
    def landmarks(self) -> slice:
        """Landmark positions, 2 numbers each."""
        return slice(4, 4 + 2 * self.num_obstacles)

    @property
    def good(self) -> slice:
        """Good agents' positions and velocities, 4 numbers each."""
        return slice(self.width - 4 - 4 * self.num_good, self.width - 4)

    @property
    def sees_landmarks(self) -> int:
        """Index of the flag for landmarks."""
        return self.width - 4

    @property
    def sees_good(self) -> int:
        """Index of the flag for good agents."""
        return self.width - 3

    @property
    def one_hot(self) -> slice:
        """The sender's class."""
        return slice(self.width - 2, self.width)


def messages(raw: np.ndarray, roster: Roster, num_obstacles: int, *, full_observation: bool = False) -> np.ndarray:
    """The message that every adversary sends now.

    Args:
        raw: (..., N, D) raw observations of all adversaries in roster order.
        roster: The team.
        num_obstacles: Landmarks in the game.
        full_observation: Whether every adversary has both class views. Default: False.

    Returns:
        (..., N, F) messages laid out as `MessageLayout` says, of the dtype of `raw`.
    """
    fields = decode(raw, roster, num_obstacles, good=False)
    layout = MessageLayout(roster.num_good, num_obstacles)
    view_a, view_b = class_view(fields, CLASS_A), class_view(fields, CLASS_B)
    is_a = (roster.classes == CLASS_A).astype(raw.dtype)
    sees_landmarks = np.ones_like(is_a) if full_observation else is_a
    sees_good = np.ones_like(is_a) if full_observation else 1 - is_a
    out = np.empty((*raw.shape[:-1], layout.width), raw.dtype)
    out[..., layout.own] = view_a[..., :4]
    out[..., layout.landmarks] = view_a[..., 4:-2] * sees_landmarks[:, None]
    out[..., layout.good] = view_b[..., 4:-2] * sees_good[:, None]
    out[..., layout.sees_landmarks] = sees_landmarks
    out[..., layout.sees_good] = sees_good
    out[..., layout.one_hot] = np.stack([is_a, 1 - is_a], axis=-1)
    return out
