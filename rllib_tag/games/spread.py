"""MPE's `simple_spread_v3` with unlike agents: scouts see the landmarks that all are to cover, workers do not."""

from __future__ import annotations

import numpy as np
from mpe2 import simple_spread_v3
from pettingzoo import ParallelEnv

from rllib_tag.world.game import Arrays, Game
from rllib_tag.world.layout import ClassView


class Spread(Game):
    """As many landmarks as agents are to be covered, without collisions.

    Everybody sees its own position and velocity; scouts, and with `full_observation` workers, see the landmarks. Nobody
    sees teammates: where they are is heard.

    Args:
        num_scouts: Agents that see the landmarks. Default: 1.
        num_workers: Agents that do not. Default: 2.
        max_cycles: Steps of an episode. Default: 25.
        full_observation: Whether workers see the landmarks, too. Default: False.

    Source: mpe2 `simple_spread.Scenario`.
    """

    def __init__(
        self, num_scouts: int = 1, num_workers: int = 2, max_cycles: int = 25, full_observation: bool = False
    ) -> None:
        names = [f"agent_{i}" for i in range(num_scouts + num_workers)]
        self.classes = {"scout": names[:num_scouts], "worker": names[num_scouts:]}
        self.max_cycles, self.full_observation = max_cycles, full_observation

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """A new env of mpe2's."""
        return simple_spread_v3.parallel_env(N=len(self.team), max_cycles=self.max_cycles, render_mode=render_mode)

    def facts(self, env: ParallelEnv) -> Arrays:
        """`team` (N, 4): position and velocity; `landmarks` (N, 2): position."""
        return {
            "team": np.array([[*agent.state.p_pos, *agent.state.p_vel] for agent in env.world.agents]),
            "landmarks": np.array([mark.state.p_pos for mark in env.world.landmarks]),
        }

    def see(self, name: str, observation: np.ndarray, facts: Arrays) -> ClassView:
        """Own movement, and the landmarks, which are the same for all who see them."""
        first = self.team.index(self.classes[name][0])
        own = facts["team"][..., first : first + len(self.classes[name]), :]
        if name == "worker" and not self.full_observation:
            return ClassView(own, {})
        landmarks = facts["landmarks"][..., None, :, :]
        return ClassView(own, {"landmarks": np.repeat(landmarks, own.shape[-2], axis=-3)})

    def positions(self, facts: Arrays) -> np.ndarray:
        """Where everybody is: (..., N, 2)."""
        return facts["team"][..., :2]

    def state(self, facts: Arrays) -> Arrays:
        """Movement of everybody, and the landmarks."""
        return facts
