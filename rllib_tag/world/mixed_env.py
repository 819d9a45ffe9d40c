"""MPE's `simple_tag_v3` as a PettingZoo env whose size each episode draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from rllib_tag.world.observations import decode
from rllib_tag.world.roster import Mixture, Roster
from rllib_tag.world.simulator import elsewhere

Facts = dict[str, np.ndarray]


class MixedEnv(ParallelEnv):
    """`simple_tag_v3` with observations of the largest size, and an mpe2 env of the drawn size behind them.

    All agents of the largest game are there in every episode. Those that take no part observe zeros, act without effect
    and get no reward; others observe zeros in their places.

    Args:
        mixture: The sizes to draw from.
        roster: The agents of the largest game.
        num_obstacles: The largest number of landmarks.
        make: Creates mpe2's env, given the numbers of adversaries, good agents and landmarks.

    Attributes:
        env: The env of the current episode.
        present: Who takes part in it: (N + y + z,) booleans for adversaries, good agents and landmarks.
        np_random: The random stream of this env and of the episode's.
    """

    metadata: ClassVar = {"name": "simple_tag_mixture", "render_modes": ["human", "rgb_array"]}

    def __init__(
        self, mixture: Mixture, roster: Roster, num_obstacles: int, make: Callable[[int, int, int], ParallelEnv]
    ) -> None:
        self._mixture, self._make = mixture, make
        self._counts = (roster.num_adversaries, roster.num_good, num_obstacles)
        self.possible_agents = [*roster.adversaries, *roster.good_agents]
        self.agents: list[str] = []
        self.np_random = seeding.np_random()[0]
        self._envs: dict[tuple[int, int, int], ParallelEnv] = {}
        self._take_part(np.ones(sum(self._counts), bool))
        self.render_mode = self.env.render_mode
        self._observation_spaces = {agent: self.env.observation_space(name) for agent, name in self._names.items()}
        self._action_spaces = {agent: self.env.action_space(name) for agent, name in self._names.items()}

    def observation_space(self, agent: str) -> spaces.Space:
        """Returns the space of an agent's observations in the largest game."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """Returns mpe2's action space."""
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Draws who takes part, and starts an episode with the same random stream."""
        if seed is not None:
            self.np_random = seeding.np_random(seed)[0]
        self._take_part(self._mixture.draw(self.np_random))
        self.env.unwrapped.np_random = self.np_random
        observations, infos = self.env.reset(options=options)
        self.agents = list(self.possible_agents)
        return self._padded(observations), {agent: infos.get(self._names.get(agent), {}) for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Steps the env of the current episode."""
        observations, rewards, terminations, truncations, infos = self.env.step(
            {name: actions[agent] for agent, name in self._names.items()}
        )
        agents, first = self.agents, self.env.possible_agents[0]
        if not self.env.agents:
            self.agents = []
        return (
            self._padded(observations),
            {agent: rewards.get(self._names.get(agent), 0.0) for agent in agents},
            {agent: terminations.get(self._names.get(agent), terminations[first]) for agent in agents},
            {agent: truncations.get(self._names.get(agent), truncations[first]) for agent in agents},
            {agent: infos.get(self._names.get(agent), {}) for agent in agents},
        )

    def spread(self, facts: Facts) -> Facts:
        """Returns the facts of the current episode's env in the places of the largest game, and `present`."""
        num_agents = len(self.possible_agents)
        positions, landmarks = np.split(elsewhere(len(self.present)), [num_agents])
        velocities = np.zeros_like(positions)
        agents, marks = np.split(self.present, [num_agents])
        positions[agents], velocities[agents] = facts["positions"], facts["velocities"]
        landmarks[marks] = facts["landmarks"]
        return {"positions": positions, "velocities": velocities, "landmarks": landmarks, "present": self.present}

    def render(self) -> Any:
        """Renders the env of the current episode."""
        return self.env.render()

    def close(self) -> None:
        """Closes all envs."""
        for env in self._envs.values():
            env.close()

    def _take_part(self, present: np.ndarray) -> None:
        x, y, _ = self._counts
        self.present = present
        agents, good, landmarks = (int(part.sum()) for part in np.split(present, [x, x + y]))
        counts = agents, good, landmarks
        if counts not in self._envs:
            self._envs[counts] = self._make(*counts)
        self.env, self._drawn = self._envs[counts], counts
        taking_part = (agent for agent, here in zip(self.possible_agents, present, strict=False) if here)
        self._names = dict(zip(taking_part, self.env.possible_agents, strict=True))

    def _padded(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x, y, _z = self._counts
        roster = Roster(self._drawn[0], 0, self._drawn[1])
        adversaries, good, landmarks = np.split(self.present, [x, x + y])
        out = {agent: np.zeros(self.observation_space(agent).shape, np.float32) for agent in self.possible_agents}
        for agent, name in self._names.items():
            is_good, place = agent.startswith("agent"), self.possible_agents.index(agent)
            fields = decode(observations[name], roster, self._drawn[2], good=is_good)
            others = adversaries if is_good else np.delete(adversaries, place)
            prey = np.delete(good, place - x) if is_good else good
            parts = [fields.velocity, fields.position]
            for values, here in (
                (fields.landmarks, landmarks), (fields.adversaries, others), (fields.good, prey),
                (fields.good_velocities, prey),
            ):  # fmt: skip
                spread = np.zeros((len(here), 2), np.float32)
                spread[here] = values
                parts.append(spread.ravel())
            out[agent] = np.concatenate(parts)
        return out
