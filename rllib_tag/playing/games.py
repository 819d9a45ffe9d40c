"""Plays seeded games side by side, for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rllib_tag.nn.team import receiver_rows
from rllib_tag.plugin.env_config import EnvConfig
from rllib_tag.world.game import Arrays, World
from rllib_tag.world.layout import MessageLayout

Rows = Mapping[str, Tensor]


def rows_of(rows: Rows, places: Sequence[int], count: int) -> Rows:
    """Returns the rows of some members of a class: (B * places, ...) out of (B * count, ...)."""
    if list(places) == list(range(count)):
        return rows
    return {key: value.unflatten(0, (-1, count))[:, list(places)].flatten(0, 1) for key, value in rows.items()}


class Games:
    """B games of one episode each.

    Args:
        config: The game.
        seeds: B seeds.
        world: What plays them. Default: the batched world if the game has one; otherwise the env, game by game.

    Attributes:
        steps: Steps played so far.
        stats: The metrics of each game whose episode has ended; empty for the others.
    """

    def __init__(self, config: EnvConfig, seeds: Sequence[int], world: World | None = None) -> None:
        self.config, self.seeds, self.steps = config, seeds, 0
        self.stats: list[dict[str, float]] = [{} for _ in seeds]
        if world is None:
            on_arrays = config.unbatched_reason is None
            world = config.batched_world(len(seeds)) if on_arrays else config.world(len(seeds))
        self.world = world
        self._games = config.games(world)
        self._games.reset(list(seeds))

    @property
    def layout(self) -> MessageLayout:
        """The layout of a message."""
        return self._games.game.layout

    @property
    def facts(self) -> Arrays:
        """What the game says is true of its world; see `Game.facts`."""
        return self._games.facts

    @property
    def positions(self) -> np.ndarray:
        """(B, agents, 2) true positions; in tag in world units, adversaries first."""
        return self._games.facts["positions"]

    @property
    def velocities(self) -> np.ndarray:
        """(B, agents, 2) true velocities; in tag in world units per second."""
        return self._games.facts["velocities"]

    @property
    def links(self) -> np.ndarray:
        """(B, N, N) booleans: the links among the team."""
        return self._games.view.links

    @property
    def comm_ranges(self) -> np.ndarray:
        """(B,) the range of links in each game, in world units."""
        return self._games.comm_ranges

    @property
    def present(self) -> np.ndarray:
        """(B, N) booleans: who of the team takes part."""
        shape = (len(self.seeds), len(self.config.game.team))
        acting = self._games.view.present
        return np.ones(shape, bool) if acting is None else acting[:, : shape[1]]

    def metrics_so_far(self) -> list[dict[str, float]]:
        """Returns the metrics of the running episodes so far."""
        return [self._games.stats.summary(i) for i in range(len(self.seeds))]

    def rows(self, policy: str) -> Rows:
        """Returns what the actors of a class's n agents observe, by key of the env: (B * n, ...), game by game."""
        game = self.config.game
        if policy not in game.classes:
            return {key: torch.from_numpy(value).flatten(0, 1) for key, value in self._games.view.others.items()}
        members = torch.tensor([game.team.index(agent) for agent in game.members(policy)], dtype=torch.long)
        return receiver_rows(self.states(), members, self.config.comm_hops)

    def states(self) -> Rows:
        """Returns what `CommEncoder.team` reads of the B games, as sequences of one step."""
        history = self._games.history
        return {
            "messages": torch.from_numpy(history.window()),
            "history": torch.from_numpy(history.num_valid).unsqueeze(1),
            "links": torch.from_numpy(self._games.view.links).unsqueeze(1),
        }

    def said(self) -> Tensor:
        """Returns what everybody says now and said in the steps before: (B, N, T, F), zero before the reset."""
        history = self._games.history
        return torch.from_numpy(np.swapaxes(history.window() * history.valid[..., None, None], 1, 2))

    def step(self, actions: Mapping[str, np.ndarray]) -> None:
        """Plays a step with actions (B, ...) by agent. Games that have ended stay as they are."""
        result = self._games.step(actions, restart=False)
        self.steps += 1
        for game, metrics in result.stats.items():
            self.stats[game] = metrics
