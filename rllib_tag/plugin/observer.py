"""What agents observe."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.comm import heard_links, links, reach
from rllib_tag.world.observations import MessageLayout, decode, messages

Arrays = dict[str, np.ndarray]


def team_state(
    config: TagEnvConfig, raw: np.ndarray, positions: np.ndarray, velocities: np.ndarray, landmarks: np.ndarray
) -> Arrays:
    """What is said, who is linked to whom, and the critics' state, of one game or of many at once.

    Args:
        config: The game.
        raw: (..., N, D) the adversaries' raw observations.
        positions: (..., N + y, 2) true positions, adversaries first.
        velocities: (..., N + y, 2) true velocities.
        landmarks: (..., z, 2) true positions.

    Returns:
        `messages` (..., N, F), `links` (..., N, N) booleans, `team` (..., N, 6), `good` (..., y, 4) and, if z is
        not 0, `landmarks` (..., z, 2), all float32 but the links.
    """
    roster = config.roster
    x = roster.num_adversaries
    moving = np.concatenate([positions, velocities], axis=-1).astype(np.float32)
    one_hot = np.broadcast_to(np.eye(2, dtype=np.float32)[roster.classes], (*moving.shape[:-2], x, 2))
    out = {
        "messages": messages(
            raw.astype(np.float32), roster, config.num_obstacles, full_observation=config.full_observation
        ),
        "links": links(positions[..., :x, :], config.comm_range),
        "team": np.concatenate([moving[..., :x, :], one_hot], axis=-1),
        "good": moving[..., x:, :],
    }
    if config.num_obstacles:
        out["landmarks"] = landmarks.astype(np.float32)
    return out


class Observer:
    """Keeps the message histories of a team and builds its adversaries' observations.

    Args:
        config: The game.

    Attributes:
        linked: (N, N) who is linked to whom now.
    """

    def __init__(self, config: TagEnvConfig) -> None:
        self._config = config
        self.restart()

    def restart(self) -> None:
        """Forgets the histories, as an episode begins."""
        N, T = self._config.roster.num_adversaries, self._config.history_length
        self._history = np.zeros((N, T, MessageLayout(self._config.num_good, self._config.num_obstacles).width), "f4")
        self._valid = np.zeros(T, np.float32)
        self.linked = np.zeros((N, N), bool)

    def observe(self, raw: np.ndarray, positions: np.ndarray, velocities: np.ndarray, landmarks: np.ndarray) -> Arrays:
        """Moves the histories on by one step and builds the adversaries' observations.

        Args:
            raw: (N, D) the adversaries' raw observations.
            positions: (N + y, 2) true positions, adversaries first.
            velocities: (N + y, 2) true velocities.
            landmarks: (z, 2) true positions.

        Returns:
            By key of `adversary_space`, float32 arrays with the axis N of the receivers in front.
        """
        N = self._config.roster.num_adversaries
        state = team_state(self._config, raw, positions, velocities, landmarks)
        self._history = np.concatenate([self._history[:, 1:], state.pop("messages")[:, None]], axis=1)  # (N, T, F)
        self._valid = np.append(self._valid[1:], np.float32(1))  # (T,)
        self.linked = state.pop("links")
        arrived = reach(self.linked, self._config.comm_hops)
        known = heard_links(self.linked, arrived).astype(np.float32)  # (N, N, N)
        arrived = arrived.astype(np.float32)
        return {
            "messages": arrived[..., None, None] * self._history,  # (N, N, T, F)
            "message_mask": arrived[..., None] * self._valid,  # (N, N, T)
            "links": known,
            "self": np.eye(N, dtype=np.float32),
        } | {key: np.broadcast_to(value, (N, *value.shape)) for key, value in state.items()}


def observe_good(config: TagEnvConfig, raw: np.ndarray) -> Arrays:
    """Builds the observations of good agents that learn.

    Args:
        config: The game.
        raw: (..., y, D) the good agents' raw observations.

    Returns:
        By key of `good_space`, float32 arrays with the axes (..., y) in front.
    """
    fields = decode(raw.astype(np.float32), config.roster, config.num_obstacles, good=True)
    position = fields.position[..., None, :]
    out = {
        "own": np.concatenate([fields.position, fields.velocity], axis=-1),
        "adversaries": fields.adversaries + position,
        "good": np.concatenate([fields.good + position, fields.good_velocities], axis=-1),
        "landmarks": fields.landmarks + position,
    }
    return {key: value for key, value in out.items() if value.size}


def potentials(positions: np.ndarray, num_adversaries: int) -> np.ndarray:
    """Minus every adversary's distance to the nearest good agent, of positions (..., N + y, 2): (..., N)."""
    x = num_adversaries
    offsets = positions[..., :x, None, :] - positions[..., None, x:, :]
    return -np.linalg.norm(offsets, axis=-1).min(-1)


def _box(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, shape, np.float32)


def _flags(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(0.0, 1.0, shape, np.float32)


def adversary_space(config: TagEnvConfig) -> gym.spaces.Dict:
    """The observation space of an adversary, the same for both classes."""
    N, T = config.roster.num_adversaries, config.history_length
    spaces = {
        "messages": _box(N, T, MessageLayout(config.num_good, config.num_obstacles).width),
        "message_mask": _flags(N, T),
        "links": _flags(N, N),
        "self": _flags(N),
        "team": _box(N, 6),
        "good": _box(config.num_good, 4),
    }
    if config.num_obstacles:
        spaces["landmarks"] = _box(config.num_obstacles, 2)
    return gym.spaces.Dict(spaces)


def good_space(config: TagEnvConfig) -> gym.spaces.Dict:
    """The observation space of a learning good agent."""
    spaces = {"own": _box(4), "adversaries": _box(config.roster.num_adversaries, 2)}
    if config.num_good > 1:
        spaces["good"] = _box(config.num_good - 1, 4)
    if config.num_obstacles:
        spaces["landmarks"] = _box(config.num_obstacles, 2)
    return gym.spaces.Dict(spaces)
