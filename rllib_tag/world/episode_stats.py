"""Episode statistics, always computed from the env's own rewards and the true world state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rllib_tag.world.game import Arrays, Game


class EpisodeStats:
    """Accumulates the episode statistics of B games, step by step.

    Args:
        game: The game.
        num_games: B.
    """

    def __init__(self, game: Game, num_games: int) -> None:
        self._game, self._num_games = game, num_games
        self._returns = np.zeros((num_games, len(game.everyone)))
        self._links, self._steps = np.zeros((2, num_games))
        self._sums: dict[str, np.ndarray] = {}
        self._firsts: dict[str, np.ndarray] = {}

    def restart(self, games: Any) -> None:
        """Resets the statistics of games that start a new episode, given by their indices."""
        for counts in (self._returns, self._links, self._steps, *self._sums.values(), *self._firsts.values()):
            counts[games] = 0

    def step(self, games: Any, rewards: np.ndarray, facts: Arrays, linked: np.ndarray) -> None:
        """Adds one step of some games.

        Args:
            games: The indices of these games.
            rewards: (games, agents) the env's own rewards, in the order of `Game.everyone`.
            facts: (games, ...) by name, after the step.
            linked: (games, N, N) links after the step.
        """
        N = linked.shape[-1]
        self._steps[games] += 1
        self._returns[games] += rewards
        self._links[games] += (linked.sum((-2, -1)) - N) / N
        for name, values in self._game.measure(facts).items():
            sums = self._sums.setdefault(name, np.zeros(self._num_games))
            firsts = self._firsts.setdefault(name, np.zeros(self._num_games))
            sums[games] += values
            firsts[games] = np.where((values > 0) & (firsts[games] == 0), self._steps[games], firsts[games])

    def summary(self, game: int = 0) -> dict[str, float]:
        """Returns the metrics of one game's episode.

        `return_TEAM` is the undiscounted sum of the env's own rewards, averaged over the team; TEAM is the team's name
        (`adversary` in tag). `return_CLASS` is the same for each class, and each group of other agents, that has
        members. `mean_links` is the number of teammates that an agent is linked to, averaged over agents and steps.
        The game adds its own metrics.
        """
        returns = dict(zip(self._game.everyone, self._returns[game], strict=True))
        groups: Mapping[str, Any] = {
            self._game.team_name: self._game.team, **self._game.classes, **self._game.others
        }  # fmt: skip
        out = {
            f"return_{name}": float(np.mean([returns[agent] for agent in agents]))
            for name, agents in groups.items()
            if agents
        }
        own = self._game.metrics(
            {name: float(values[game]) for name, values in self._sums.items()},
            {name: float(values[game]) for name, values in self._firsts.items()},
        )
        return {**out, **own, "mean_links": float(self._links[game] / max(self._steps[game], 1))}
