"""Random streams side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rllib_tag.world.behaviours import random_actions

BLOCK = 64  # steps whose actions are drawn at once


class Streams:
    """A random stream for each of B games, so that an episode depends on its own seed alone.

    Args:
        num_games: B.
    """

    def __init__(self, num_games: int) -> None:
        self.rngs = [np.random.default_rng() for _ in range(num_games)]
        self._next = np.full(num_games, BLOCK)  # of each game, in its block
        self._drawn: np.ndarray | None = None

    def restart(self, games: Sequence[int], seeds: Sequence[int | None], stream: int) -> None:
        """Begins the streams of some games anew; those whose seed is None go on.

        Args:
            games: Which of the B.
            seeds: One for each of them.
            stream: Tells streams of the same seed apart.
        """
        for game, seed in zip(games, seeds, strict=True):
            if seed is not None:
                self.rngs[game] = np.random.default_rng([seed, stream])
                self._next[game] = BLOCK

    def random_actions(self, num_agents: int, continuous: bool) -> np.ndarray:
        """Uniform MPE actions, (B, num_agents) integers or (B, num_agents, 5) float32, drawn in blocks of steps."""
        for game in np.flatnonzero(self._next == BLOCK):
            block = random_actions(self.rngs[game], (BLOCK, num_agents), continuous)
            if self._drawn is None:
                self._drawn = np.empty((BLOCK, len(self.rngs), *block.shape[1:]), block.dtype)
            self._drawn[:, game] = block
        assert self._drawn is not None
        chosen = self._drawn[self._next % BLOCK, np.arange(len(self.rngs))]
        self._next = self._next % BLOCK + 1
        return chosen
