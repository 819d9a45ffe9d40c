"""The last messages of a team, and how old its game is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class History:
    """The last T messages of all agents of B games, kept once for everybody who hears them.

    What was said before a game's reset stays in place and is told apart by the game's age.

    Args:
        length: T.
        num_games: B.

    Attributes:
        sent: The last T messages, oldest first: T times (B, N, F).
        ages: (B,) steps since the reset.
    """

    def __init__(self, length: int, num_games: int) -> None:
        self.length = length
        self.sent: list[np.ndarray] = []
        self.ages = np.zeros(num_games, np.int64)

    def restart(self, games: Sequence[int], messages: np.ndarray) -> None:
        """Begins some games anew.

        Args:
            games: Which of the B.
            messages: (B, N, F) what is said now; of other games, what was said last.
        """
        self.ages[games] = 0
        before = self.sent[:-1] if self.sent else [np.zeros_like(messages)] * (self.length - 1)
        self.sent = [*before, messages]

    def add(self, messages: np.ndarray) -> None:
        """Moves on by a step, in which (B, N, F) is said."""
        self.ages += 1
        self.sent = [*self.sent[1:], messages]

    @property
    def num_valid(self) -> np.ndarray:
        """How many of the last T messages belong to the running episodes: (B,) integers, at least 1."""
        return np.minimum(self.ages + 1, self.length)

    @property
    def valid(self) -> np.ndarray:
        """Which of the last T messages belong to the running episodes: (B, T) booleans."""
        return np.arange(self.length - 1, -1, -1) < self.num_valid[:, None]

    def window(self) -> np.ndarray:
        """The last T messages, oldest first: (B, T, N, F)."""
        return np.stack(self.sent, axis=1)
