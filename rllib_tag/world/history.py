"""The most recent messages of a team, and the age of each episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def num_valid(ages: np.ndarray, length: int) -> np.ndarray:
    """Returns how many of the last `length` messages belong to the running episodes, given steps since the reset."""
    return np.minimum(ages + 1, length)


class History:
    """The last T messages of all agents of B games, stored once for all receivers.

    Messages from before a game's reset stay in the buffer; the age of the episode tells which ones they are.

    Args:
        length: T.
        num_games: B.

    Attributes:
        sent: The last T messages, oldest first: T arrays (B, N, F).
        ages: (B,) steps since the reset.
    """

    def __init__(self, length: int, num_games: int) -> None:
        self.length = length
        self.sent: list[np.ndarray] = []
        self.ages = np.zeros(num_games, np.int64)

    def restart(self, games: Sequence[int], messages: np.ndarray) -> None:
        """Starts new episodes in some games.

        Args:
            games: The indices of these games.
            messages: (B, N, F) the current messages of all games; they replace the newest ones.
        """
        self.ages[games] = 0
        before = self.sent[:-1] if self.sent else [np.zeros_like(messages)] * (self.length - 1)
        self.sent = [*before, messages]

    def add(self, messages: np.ndarray) -> None:
        """Appends the messages (B, N, F) of the next step."""
        self.ages += 1
        self.sent = [*self.sent[1:], messages]

    @property
    def num_valid(self) -> np.ndarray:
        """How many of the last T messages belong to the current episode: (B,) integers, at least 1."""
        return num_valid(self.ages, self.length)

    @property
    def valid(self) -> np.ndarray:
        """Which of the last T messages belong to the current episode: (B, T) booleans."""
        return np.arange(self.length - 1, -1, -1) < self.num_valid[:, None]

    def window(self) -> np.ndarray:
        """The last T messages, oldest first: (B, T, N, F)."""
        return np.stack(self.sent, axis=1)
