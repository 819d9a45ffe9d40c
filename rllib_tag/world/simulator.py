"""MPE's `simple_tag_v3`, vectorized over many environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from rllib_tag.errors import ConfigError, check_bool, check_int
from rllib_tag.world.observations import raw_size

# Source of all constants: mpe2 `simple_tag.py` and `core.py`.
DT, DAMPING, CONTACT_FORCE, CONTACT_MARGIN = 0.1, 0.25, 1e2, 1e-3
SIZE = {"adversary": 0.075, "good": 0.05, "landmark": 0.2}
ACCELERATION = {"adversary": 3.0, "good": 4.0}
MAX_SPEED = {"adversary": 1.0, "good": 1.3}
CONTACT_REWARD = 10.0
# Beyond this gap, a contact force is below 2e-20, too small to change a sum of forces, velocities or positions.
FORCE_GAP = 0.045
# Where agents and landmarks stand that take no part in an episode, and how far apart: too far to touch, hear or repel.
ELSEWHERE = 1e12
MOVES = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])

Arrays = dict[str, np.ndarray]


class SimpleTagVec:
    """B games of `simple_tag_v3` in lockstep, each equal to mpe2's up to float64 rounding.

    Resets equal mpe2's bit for bit, and positions are within 1e-9 over 100 steps.

    Methods return what PettingZoo's parallel env returns, with a leading batch axis. When an episode ends, its
    environment starts the next one at once: the returned observations belong to the new episode, and the last
    observations of the old one are in the infos under `final_observation`.

    Args:
        num_envs: B.
        num_good: y, the number of good agents. Default: 1.
        num_adversaries: x, the number of adversaries. Default: 3.
        num_obstacles: z, the number of landmarks. Default: 2.
        max_cycles: Steps per episode. Default: 25.
        continuous_actions: Whether actions are Box(0, 1, (5,)) instead of Discrete(5). Default: False.
        draw: Draws, from an environment's random stream, which agents and landmarks take part in an episode,
            (x + y + z,) booleans; the others are far away and get no reward. Default: all take part.

    Attributes:
        present: (B, x + y + z) which adversaries, good agents and landmarks take part in the current episodes.
        positions: (B, x + y, 2) float64, adversaries first, in world units.
        velocities: (B, x + y, 2) float64, in world units per second.
        landmarks: (B, z, 2) float64.
        steps: (B,) steps since the start of the current episodes.

    Raises:
        ConfigError: If an argument is invalid.

    Examples:
        >>> games = SimpleTagVec(num_envs=128)
        >>> observations, _ = games.reset(seed=range(128))
        >>> actions = {agent: np.zeros(128, int) for agent in games.agents}
        >>> observations, rewards, terminations, truncations, infos = games.step(actions)
        >>> observations["adversary_0"].shape
        (128, 16)

    Source: mpe2 `simple_tag.Scenario` and `core.World`; forces are added in the same order.
    """

    def __init__(
        self,
        num_envs: int,
        num_good: int = 1,
        num_adversaries: int = 3,
        num_obstacles: int = 2,
        max_cycles: int = 25,
        continuous_actions: bool = False,
        draw: Callable[[np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        for name, value, minimum in (
            ("num_envs", num_envs, 1),
            ("num_good", num_good, 0),
            ("num_adversaries", num_adversaries, 0),
            ("num_obstacles", num_obstacles, 0),
            ("max_cycles", max_cycles, 1),
        ):
            check_int(name, value, minimum)
        check_bool("continuous_actions", continuous_actions)
        if num_good + num_adversaries == 0:
            raise ConfigError("num_good and num_adversaries: expected at least one agent, got 0 of both.")
        self.num_envs, self.max_cycles, self.continuous_actions = num_envs, max_cycles, continuous_actions
        x, y, z = self.num_adversaries, self.num_good, self.num_obstacles = num_adversaries, num_good, num_obstacles
        self.possible_agents = [*(f"adversary_{i}" for i in range(x)), *(f"agent_{i}" for i in range(y))]
        self.agents = list(self.possible_agents)
        action = spaces.Box(0.0, 1.0, (5,), np.float32) if continuous_actions else spaces.Discrete(5)
        self.action_spaces = dict.fromkeys(self.agents, action)
        self.observation_spaces = {
            name: spaces.Box(-np.inf, np.inf, (raw_size(x, y, z, good=i >= x),), np.float32)
            for i, name in enumerate(self.agents)
        }
        kinds = ["adversary"] * x + ["good"] * y
        self._acceleration = np.array([[ACCELERATION[kind]] for kind in kinds])
        self._max_speed = np.array([MAX_SPEED[kind] for kind in kinds])
        # All agent-agent and agent-landmark pairs, in the order in which mpe2 adds their forces.
        sizes = np.array([SIZE[kind] for kind in kinds] + [SIZE["landmark"]] * z)
        pairs = [(i, j) for i in range(x + y) for j in range(i + 1, x + y + z)]
        self._pairs = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        self._reach = sizes[self._pairs].sum(1)
        self._rngs = [seeding.np_random()[0] for _ in range(num_envs)]
        self._draw = draw
        self.present = np.ones((num_envs, x + y + z), bool)
        self.positions = np.zeros((num_envs, x + y, 2))
        self.velocities = np.zeros((num_envs, x + y, 2))
        self.landmarks = np.zeros((num_envs, z, 2))
        self.steps = np.zeros(num_envs, np.int64)
        self.reset()

    def reset(self, seed: int | Sequence[int | None] | None = None) -> tuple[Arrays, dict[str, dict[str, Any]]]:
        """Starts new episodes in all environments.

        Args:
            seed: One seed per environment, used as mpe2's `reset(seed=...)` uses it; with None, an environment
                continues its random stream. As in gymnasium's vector environments, a single integer s stands for
                s, s + 1, … . Default: all continue.

        Returns:
            Observations by agent, (B, D) float32, and empty infos by agent.

        Raises:
            ConfigError: If the number of seeds is not B.
        """
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        if seed is not None:
            if len(seed) != self.num_envs:
                raise ConfigError(f"seed: expected one for each of the {self.num_envs} environments, got {len(seed)}.")
            self.seed(range(self.num_envs), seed)
        self.restart(np.arange(self.num_envs))
        return self.observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, np.ndarray]
    ) -> tuple[Arrays, Arrays, Arrays, Arrays, dict[str, dict[str, Any]]]:
        """Steps all games.

        Args:
            actions: By agent, (B,) integers in 0..4 or (B, 5) numbers in [0, 1].

        Returns:
            Observations (B, D) float32, rewards (B,) float64, terminations (B,), truncations (B,) and infos,
            by agent. If any episode has ended, the infos contain `ended` (B,) and `final_observation` (B, D), whose
            rows are the last observations of the environments that ended.

        Raises:
            ConfigError: If an action is missing, has the wrong shape or is out of range.
        """
        rewards, ended = self.advance(actions)
        observations = self.observe()
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        if ended.any():
            for agent in self.agents:
                infos[agent] = {"final_observation": observations[agent], "ended": ended.copy()}
            self.restart(np.flatnonzero(ended))
            observations = self.observe()
        terminations = {agent: np.zeros(self.num_envs, bool) for agent in self.agents}
        truncations = {agent: ended.copy() for agent in self.agents}
        return observations, rewards, terminations, truncations, infos

    def advance(self, actions: Mapping[str, np.ndarray]) -> tuple[Arrays, np.ndarray]:
        """Steps all games without restarting those that end.

        Args:
            actions: As for `step`.

        Returns:
            Rewards (B,) by agent, and which episodes have ended (B,).
        """
        forces = self._control(actions)
        self._add_contact_forces(forces)
        self._integrate(forces)
        self.steps += 1
        return self._rewards(self._touching()), self.steps >= self.max_cycles

    def seed(self, envs: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Seeds the random streams of some environments; a stream whose seed is None continues."""
        for i, value in zip(envs, seeds, strict=True):
            if value is not None:
                self._rngs[i] = seeding.np_random(value)[0]

    def restart(self, envs: np.ndarray) -> None:
        """Starts new episodes in some environments, each drawn from its own random stream."""
        num_agents = self.positions.shape[1]
        for i in envs:
            if self._draw is not None:
                self.present[i] = self._draw(self._rngs[i])
                self.positions[i], self.landmarks[i] = np.split(elsewhere(self.present.shape[1]), [num_agents])
            agents, landmarks = np.split(self.present[i], [num_agents])
            self.positions[i, agents] = self._rngs[i].uniform(-1, 1, (agents.sum(), 2))
            self.landmarks[i, landmarks] = self._rngs[i].uniform(-0.9, 0.9, (landmarks.sum(), 2))
        self.velocities[envs] = 0
        self.steps[envs] = 0

    def _control(self, actions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the control forces of the agents: (B, x + y, 2)."""
        shape = (self.num_envs, 5) if self.continuous_actions else (self.num_envs,)
        out = np.empty_like(self.velocities)
        for i, agent in enumerate(self.agents):
            if agent not in actions:
                raise ConfigError(f"actions: expected one for every agent, got none for {agent}.")
            action = np.asarray(actions[agent])
            if action.shape != shape:
                raise ConfigError(f"actions: expected shape {shape} for {agent}, got {action.shape}.")
            if self.continuous_actions:
                clipped = np.clip(action, 0, 1).astype(np.float32)
                out[:, i, 0] = clipped[:, 2] - clipped[:, 1]
                out[:, i, 1] = clipped[:, 4] - clipped[:, 3]
            else:
                if not np.issubdtype(action.dtype, np.integer) or action.min() < 0 or action.max() > 4:
                    raise ConfigError(f"actions: expected integers in 0..4 for {agent}, got {action}.")
                out[:, i] = MOVES[action]
        return out * self._acceleration

    def _add_contact_forces(self, forces: np.ndarray) -> None:
        """Adds the contact forces, pair by pair in mpe2's order, and skips pairs too far apart to have any."""
        places = np.concatenate([self.positions, self.landmarks], axis=1)  # (B, x + y + z, 2)
        across, along = np.ascontiguousarray(places.transpose(2, 1, 0))  # (x + y + z, B) each
        first, second = self._pairs.T
        squares = np.square(across[first] - across[second]) + np.square(along[first] - along[second])  # (pairs, B)
        pair, env = np.nonzero(squares < np.square(self._reach + FORCE_GAP)[:, None])
        distance = np.sqrt(squares[pair, env])
        penetration = np.logaddexp(0, -(distance - self._reach[pair]) / CONTACT_MARGIN) * CONTACT_MARGIN
        offsets = places[env, first[pair]] - places[env, second[pair]]  # (contacts, 2)
        pushed = CONTACT_FORCE * offsets / distance[:, None] * penetration[:, None]
        agents = np.stack([first[pair], second[pair]], axis=1)  # (contacts, 2)
        both = np.stack([pushed, -pushed], axis=1)
        moves = agents < self.positions.shape[1]  # landmarks stay
        np.add.at(forces, (np.broadcast_to(env[:, None], agents.shape)[moves], agents[moves]), both[moves])

    def _integrate(self, forces: np.ndarray) -> None:
        self.positions += self.velocities * DT
        velocities = self.velocities * (1 - DAMPING)
        velocities += forces * DT
        speed = np.sqrt(np.square(velocities).sum(-1))
        fast = speed > self._max_speed
        limit = np.broadcast_to(self._max_speed, speed.shape)[fast]
        velocities[fast] = velocities[fast] / speed[fast][:, None] * limit[:, None]
        self.velocities = velocities

    def _touching(self) -> np.ndarray:
        """Returns which adversaries touch which good agents: (x, y, B)."""
        across, along = np.ascontiguousarray(self.positions.transpose(2, 1, 0))  # (x + y, B) each
        x = self.num_adversaries
        squares = np.square(across[:x, None] - across[x:]) + np.square(along[:x, None] - along[x:])
        return np.sqrt(squares) < SIZE["adversary"] + SIZE["good"]

    def _rewards(self, touching: np.ndarray) -> Arrays:
        x = self.num_adversaries
        hunted = CONTACT_REWARD * touching.sum((0, 1)).astype(float)
        out = {agent: hunted.copy() for agent in self.agents[:x]}
        beyond = np.abs(self.positions[:, x:])  # (B, y, 2)
        bound = np.where(beyond < 1, (beyond - 0.9) * 10, np.minimum(np.exp(2 * np.minimum(beyond, 9.0) - 2), 10))
        bound[beyond < 0.9] = 0
        for i, agent in enumerate(self.agents[x:]):
            out[agent] = -CONTACT_REWARD * touching[:, i].sum(0) - bound[:, i, 0] - bound[:, i, 1]
        if self._draw is not None:
            for i, agent in enumerate(self.agents):
                out[agent] *= self.present[:, i]
        return out

    def observe(self) -> Arrays:
        """Returns mpe2's observations by agent, (B, D) float32.

        They hold own velocity, own position, landmarks, other agents, and velocities of other good agents.
        """
        adversaries, good = self.observe_all()
        return dict(zip(self.agents, (*adversaries, *good), strict=True))

    def observe_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the same observations stacked: (x, B, D) of the adversaries and (y, B, D') of the good agents."""
        x, y, z = self.num_adversaries, self.num_good, self.num_obstacles
        # The environments' axis comes last, so that each operation runs over all of them: (agents, 2, B), (z, 2, B).
        positions, velocities, landmarks = (
            np.ascontiguousarray(values.transpose(1, 2, 0))
            for values in (self.positions, self.velocities, self.landmarks)
        )
        out = []
        for agents, good in ((range(x), False), (range(x, x + y), True)):
            size = raw_size(x, y, z, good=good) if agents else 0
            stacked = np.empty((len(agents), self.num_envs, size), np.float32)
            row = np.empty((size // 2, 2, self.num_envs), np.float32)
            for of_agent, i in zip(stacked, agents, strict=True):
                parts = (
                    velocities[i : i + 1],
                    positions[i : i + 1],
                    landmarks - positions[i],
                    positions[:i] - positions[i],
                    positions[i + 1 :] - positions[i],
                    velocities[x : max(i, x)],
                    velocities[max(i + 1, x) :],
                )
                np.concatenate(parts, out=row, casting="same_kind")
                of_agent[:] = row.reshape(size, -1).T
            out.append(stacked)
        return out[0], out[1]


def elsewhere(num: int) -> np.ndarray:
    """Returns where agents and landmarks stand that take no part in an episode: (num, 2)."""
    return np.stack([np.full(num, ELSEWHERE), ELSEWHERE * np.arange(num)], axis=1)
