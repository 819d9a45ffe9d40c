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
        self._present: dict[str, np.ndarray] = {}

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
        team = N
        for kind, here in self._game.present(facts).items():
            self._present.setdefault(kind, np.ones((self._num_games, here.shape[-1]), bool))[games] = here
            team = here.sum(-1) if kind == "team" else team
        self._steps[games] += 1
        self._returns[games] += rewards
        self._links[games] += (linked.sum((-2, -1)) - N) / team
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
        The game adds its own metrics. If games vary in size, only those who take part count, and the team's return
        appears once more under a name with their numbers, such as
        `return_adversary_1_class_a_2_class_b_1_good_0_landmarks`.
        """
        here = {kind: values[game] for kind, values in self._present.items()}
        absent = self._absent(here)
        returns = {
            agent: value for agent, value in zip(self._game.everyone, self._returns[game], strict=True)
            if agent not in absent
        }  # fmt: skip
        groups: Mapping[str, Any] = {
            self._game.team_name: self._game.team, **self._game.classes, **self._game.others
        }  # fmt: skip
        out = {
            f"return_{name}": float(np.mean([returns[agent] for agent in agents if agent in returns]))
            for name, agents in groups.items()
            if returns.keys() & set(agents)
        }
        if here:
            out[self._name_by_size(here)] = out[f"return_{self._game.team_name}"]
        own = self._game.metrics(
            {name: float(values[game]) for name, values in self._sums.items()},
            {name: float(values[game]) for name, values in self._firsts.items()},
        )
        return {**out, **own, "mean_links": float(self._links[game] / max(self._steps[game], 1))}

    def _absent(self, here: Mapping[str, np.ndarray]) -> set[str]:
        """Returns the agents that take no part in a game, given who does, by kind."""
        groups = {"team": self._game.team, **self._game.others}
        return {
            agent
            for kind in groups.keys() & here.keys()
            for agent, takes_part in zip(groups[kind], here[kind], strict=True)
            if not takes_part
        }

    def _name_by_size(self, here: Mapping[str, np.ndarray]) -> str:
        """Returns the name of the team's return in games of the same size, given who takes part, by kind."""
        classes = np.bincount(self._game.class_of[here["team"]], minlength=len(self._game.classes))
        counts = [*zip(self._game.classes, classes, strict=True)]
        counts += [(kind, values.sum()) for kind, values in here.items() if kind != "team"]
        return "_".join([f"return_{self._game.team_name}", *(f"{count}_{kind}" for kind, count in counts)])
