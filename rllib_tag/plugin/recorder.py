"""Counts MPE's own steps, below whatever wraps them."""

from __future__ import annotations

from typing import Any

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.episode_stats import EpisodeStats
from rllib_tag.world.comm import links
from rllib_tag.world.roster import Roster


class StatsRecorder(BaseParallelWrapper):
    """The innermost wrapper: sees every step of MPE with MPE's own rewards.

    Args:
        env: MPE's parallel env.
        roster: Who is who.
        config: The game.

    Attributes:
        stats: What has been counted of the running episode.
    """

    def __init__(self, env: ParallelEnv, roster: Roster, config: TagEnvConfig) -> None:
        super().__init__(env)
        self._roster, self._config = roster, config
        self.stats = EpisodeStats(roster, config.max_cycles)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode and its counts."""
        self.stats = EpisodeStats(self._roster, self._config.max_cycles)
        return super().reset(seed=seed, options=options)

    def step(self, actions: dict[str, Any]) -> Any:
        """Plays one step of MPE and counts it."""
        result = super().step(actions)
        names = (*self._roster.adversaries, *self._roster.good_agents)
        positions = np.array([agent.state.p_pos for agent in self.unwrapped.world.agents])
        linked = links(positions[: self._roster.num_adversaries], self._config.comm_range)
        self.stats.step(np.array([result[1][name] for name in names]), positions, linked)
        return result
