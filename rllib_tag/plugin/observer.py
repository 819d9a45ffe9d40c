"""What agents observe, for one game or for many at once."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.comm import heard_links, links, reach
from rllib_tag.world.observations import MessageLayout, decode, messages

Arrays = dict[str, np.ndarray]


class Observer:
    """Keeps the message histories of a team and builds its observations.

    Args:
        config: The game.
        lead: Leading axes of everything: () for one game, (B,) for B games.

    Attributes:
        linked: (..., N, N) who is linked to whom now.
    """

    def __init__(self, config: TagEnvConfig, lead: tuple[int, ...] = ()) -> None:
        self._config, self._roster, self._lead = config, config.roster, lead
        N, T = self._roster.num_adversaries, config.history_length
        width = MessageLayout(config.num_good, config.num_obstacles).width
        self._history = np.zeros((*lead, N, T, width), np.float32)
        self._valid = np.zeros((*lead, T), np.float32)
        self.linked = np.zeros((*lead, N, N), bool)

    def restart(self, games: np.ndarray | tuple[()] = ()) -> None:
        """Forgets the histories of games whose episodes begin: indices, or () for the one game."""
        self._history[games] = 0
        self._valid[games] = 0

    def observe(self, raw: np.ndarray, positions: np.ndarray, velocities: np.ndarray, landmarks: np.ndarray) -> Arrays:
        """Moves the histories on by one step and builds the adversaries' observations.

        Args:
            raw: (..., N, D) the adversaries' raw observations.
            positions: (..., N + y, 2) true positions, adversaries first.
            velocities: (..., N + y, 2) true velocities.
            landmarks: (..., z, 2) true positions.

        Returns:
            By key of `adversary_space`, float32 arrays with the axes (..., N) of the receivers in front.
        """
        config, x = self._config, self._roster.num_adversaries
        now = messages(
            raw.astype(np.float32), self._roster, config.num_obstacles, full_observation=config.full_observation
        )
        self._history = np.concatenate([self._history[..., 1:, :], now[..., None, :]], axis=-2)  # (..., N, T, F)
        ones = np.ones((*self._lead, 1), np.float32)
        self._valid = np.concatenate([self._valid[..., 1:], ones], axis=-1)  # (..., T)
        self.linked = links(positions[..., :x, :], config.comm_range)
        arrived = reach(self.linked, config.comm_hops)
        known = heard_links(self.linked, arrived).astype(np.float32)  # (..., N, N, N)
        arrived = arrived.astype(np.float32)
        out = {
            "messages": arrived[..., None, None] * self._history[..., None, :, :, :],  # (..., N, N, T, F)
            "message_mask": arrived[..., None] * self._valid[..., None, None, :],  # (..., N, N, T)
            "links": known,
            "self": np.broadcast_to(np.eye(x, dtype=np.float32), (*self._lead, x, x)),
        }
        moving = np.concatenate([positions, velocities], axis=-1).astype(np.float32)
        one_hot = np.broadcast_to(np.eye(2, dtype=np.float32)[self._roster.classes], (*self._lead, x, 2))
        state = {
            "team": np.concatenate([moving[..., :x, :], one_hot], axis=-1),
            "good": moving[..., x:, :],
            "landmarks": landmarks.astype(np.float32),
        }
        return out | {key: self._for_all(value) for key, value in state.items() if value.size}

    def _for_all(self, value: np.ndarray) -> np.ndarray:
        """The same array for every receiver."""
        x = self._roster.num_adversaries
        axis = len(self._lead)
        return np.broadcast_to(np.expand_dims(value, axis), (*self._lead, x, *value.shape[axis:]))

    def observe_good(self, raw: np.ndarray) -> Arrays:
        """Builds the observations of good agents that learn.

        Args:
            raw: (..., y, D) the good agents' raw observations.

        Returns:
            By key of `good_space`, float32 arrays with the axes (..., y) in front.
        """
        fields = decode(raw.astype(np.float32), self._roster, self._config.num_obstacles, good=True)
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
