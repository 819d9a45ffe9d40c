"""MPE's `simple_spread_v3` with unlike agents: scouts see the landmarks that the team must cover, workers do not."""

from __future__ import annotations

import numpy as np
from mpe2 import simple_spread_v3
from pettingzoo import ParallelEnv

from rllib_tag.world.game import Arrays, Game
from rllib_tag.world.layout import ClassView


class Spread(Game):
    """N agents must cover N landmarks without colliding.

    All agents see their own position and velocity. Scouts see the landmarks, and so do workers with
    `full_observation`. No agent sees its teammates; their positions arrive as messages.

    Args:
        num_scouts: The number of agents that see the landmarks. Default: 1.
        num_workers: The number of agents that do not. Default: 2.
        max_cycles: Steps in an episode. Default: 25.
        full_observation: Whether workers also see the landmarks. Default: False.

    Source: mpe2 `simple_spread.Scenario`.
    """

    def __init__(
        self, num_scouts: int = 1, num_workers: int = 2, max_cycles: int = 25, full_observation: bool = False
    ) -> None:
        names = [f"agent_{i}" for i in range(num_scouts + num_workers)]
        self.classes = {"scout": names[:num_scouts], "worker": names[num_scouts:]}
        self.max_cycles, self.full_observation = max_cycles, full_observation

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """Returns a new mpe2 env."""
        return simple_spread_v3.parallel_env(N=len(self.team), max_cycles=self.max_cycles, render_mode=render_mode)

    def facts(self, env: ParallelEnv) -> Arrays:
        """Returns `team` (N, 4), position and velocity, and `landmarks` (N, 2), position."""
        return {
            "team": np.array([[*agent.state.p_pos, *agent.state.p_vel] for agent in env.world.agents]),
            "landmarks": np.array([mark.state.p_pos for mark in env.world.landmarks]),
        }

    def see(self, name: str, observation: np.ndarray, facts: Arrays) -> ClassView:
        """An agent sees its own position and velocity, and the landmarks if its class does."""
        first = self.team.index(self.classes[name][0])
        own = facts["team"][..., first : first + len(self.classes[name]), :]
        if name == "worker" and not self.full_observation:
            return ClassView(own, {})
        landmarks = facts["landmarks"][..., None, :, :]
        return ClassView(own, {"landmarks": np.repeat(landmarks, own.shape[-2], axis=-3)})

    def positions(self, facts: Arrays) -> np.ndarray:
        """Returns the position of every agent, (..., N, 2)."""
        return facts["team"][..., :2]

    def state(self, facts: Arrays) -> Arrays:
        """Returns position and velocity of every agent, and the landmarks."""
        return facts
