"""One random stream per game."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rllib_tag.world.behaviours import random_actions

BLOCK = 64  # number of steps for which actions are drawn at once
# What distinguishes the random streams of an episode, which have the same seed.
OTHERS, ACTIONS, CHANNEL, RANGES = 1, 2, 3, 4


class Streams:
    """One random stream for each of B games, so that an episode depends only on its own seed.

    Args:
        num_games: B.
    """

    def __init__(self, num_games: int) -> None:
        self.rngs = [np.random.default_rng() for _ in range(num_games)]
        self._next = np.full(num_games, BLOCK)  # each game's next step in its block
        self._drawn: np.ndarray | None = None

    def restart(self, games: Sequence[int], seeds: Sequence[int | None], stream: int) -> None:
        """Restarts the streams of some games; a stream whose seed is None continues.

        Args:
            games: The indices of these games.
            seeds: One seed for each of them.
            stream: Distinguishes streams with the same seed.
        """
        for game, seed in zip(games, seeds, strict=True):
            if seed is not None:
                self.rngs[game] = np.random.default_rng([seed, stream])
                self._next[game] = BLOCK

    def random_actions(self, num_agents: int, continuous: bool) -> np.ndarray:
        """Samples MPE actions, (B, num_agents) integers or (B, num_agents, 5) float32, in blocks of steps."""
        for game in np.flatnonzero(self._next == BLOCK):
            block = random_actions(self.rngs[game], (BLOCK, num_agents), continuous)
            if self._drawn is None:
                self._drawn = np.empty((BLOCK, len(self.rngs), *block.shape[1:]), block.dtype)
            self._drawn[:, game] = block
        assert self._drawn is not None
        chosen = self._drawn[self._next % BLOCK, np.arange(len(self.rngs))]
        self._next = self._next % BLOCK + 1
        return chosen
