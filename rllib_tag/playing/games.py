"""Seeded games side by side, for evaluation: on arrays where the game can be played so, else one by one on mpe2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rllib_tag.names import GOOD_POLICY
from rllib_tag.nn.team import receiver_rows
from rllib_tag.plugin.env import STATS_KEY, TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.tag_vec import TagVec, mpe2_needed

Rows = Mapping[str, Tensor]


class Games(Protocol):
    """B games of one episode each.

    Attributes:
        config: The game.
        seeds: B seeds.
        steps: Steps played.
        stats: The figures of each game whose episode has ended; empty for the others.
    """

    config: TagEnvConfig
    seeds: Sequence[int]
    steps: int
    stats: list[dict[str, float]]

    @property
    def positions(self) -> np.ndarray:
        """(B, agents, 2) true positions in world units, adversaries first."""
        ...

    @property
    def velocities(self) -> np.ndarray:
        """(B, agents, 2) true velocities in world units a second."""
        ...

    def rows(self, policy: str) -> Rows:
        """What a policy's n agents observe, by key of `TagEnv`: (B * n, ...), the agents of one game together."""
        ...

    def step(self, actions: Mapping[str, np.ndarray]) -> None:
        """Plays a step: actions (B,) or (B, 5) by agent. Games that have ended ignore theirs."""
        ...


def rows_of(rows: Rows, places: Sequence[int], count: int) -> Rows:
    """The rows of some members of a class: (B * places, ...) of (B * count, ...)."""
    if list(places) == list(range(count)):
        return rows
    return {key: value.unflatten(0, (-1, count))[:, list(places)].flatten(0, 1) for key, value in rows.items()}


def start(config: TagEnvConfig, seeds: Sequence[int]) -> Games:
    """Games at their first step."""
    return (ArrayGames if mpe2_needed(config) is None else MpeGames)(config, seeds)


class ArrayGames:
    """Games on `TagVec`: the same as `MpeGames`, but for rounding; after the last step they show the next episode."""

    def __init__(self, config: TagEnvConfig, seeds: Sequence[int]) -> None:
        self.config, self.seeds, self.steps = config, seeds, 0
        self.stats: list[dict[str, float]] = [{} for _ in seeds]
        self._games = TagVec(config, len(seeds))
        self._games.reset(seeds)
        now = self._games.view.adversaries["messages"]
        self._said = [np.zeros_like(now)] * (config.history_length - 1) + [now]

    @property
    def positions(self) -> np.ndarray:
        """(B, agents, 2) true positions."""
        return self._games.positions

    @property
    def velocities(self) -> np.ndarray:
        """(B, agents, 2) true velocities."""
        return self._games.velocities

    def rows(self, policy: str) -> Rows:
        """What a policy's agents observe: (B * n, ...)."""
        roster, view = self.config.roster, self._games.view
        if policy == GOOD_POLICY:
            return {key: torch.from_numpy(value).flatten(0, 1) for key, value in view.good.items()}
        state = {key: torch.from_numpy(value).unsqueeze(1) for key, value in view.adversaries.items()}
        state["messages"] = torch.from_numpy(np.stack(self._said, axis=1))  # (B, T, N, F)
        age = min(self.steps + 1, self.config.history_length)
        state["history"] = torch.full((len(self.seeds), 1), age)
        members = [roster.adversaries.index(agent) for agent in roster.members(policy)]
        return receiver_rows(state, members, self.config.comm_hops)

    def step(self, actions: Mapping[str, np.ndarray]) -> None:
        """Plays a step."""
        result = self._games.step(actions)
        self.steps += 1
        self._said = [*self._said[1:], self._games.view.adversaries["messages"]]
        if result.final is not None:
            self.stats = result.stats


class MpeGames:
    """Games on mpe2: `TagEnv`s, with whatever wraps them."""

    def __init__(self, config: TagEnvConfig, seeds: Sequence[int]) -> None:
        self.config, self.seeds, self.steps = config, seeds, 0
        self.stats: list[dict[str, float]] = [{} for _ in seeds]
        given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        self.envs = [TagEnv(given) for _ in seeds]
        self._seen = [env.reset(seed=seed)[0] for env, seed in zip(self.envs, seeds, strict=True)]

    @property
    def positions(self) -> np.ndarray:
        """(B, agents, 2) true positions."""
        return np.stack([env.positions for env in self.envs])

    @property
    def velocities(self) -> np.ndarray:
        """(B, agents, 2) true velocities."""
        return np.stack([env.velocities for env in self.envs])

    def rows(self, policy: str) -> Rows:
        """What a policy's agents observe: (B * n, ...)."""
        rows = [seen[agent] for seen in self._seen for agent in self.config.roster.members(policy)]
        return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}

    def step(self, actions: Mapping[str, np.ndarray]) -> None:
        """Plays a step; wrappers may let episodes end at different times."""
        self.steps += 1
        for i, env in enumerate(self.envs):
            if self.stats[i]:
                continue
            chosen = {agent: actions[agent][i] for agent in env.agents}
            self._seen[i], _, terminateds, truncateds, infos = env.step(chosen)
            if terminateds["__all__"] or truncateds["__all__"]:
                self.stats[i] = infos["__common__"][STATS_KEY]
                env.close()
