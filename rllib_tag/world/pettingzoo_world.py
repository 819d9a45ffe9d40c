"""B games as separate PettingZoo envs, stepped one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

from rllib_tag.world.game import Arrays, Game, Played, Seen, Tick

Wrap = Callable[[ParallelEnv], ParallelEnv]


class TickRecorder(BaseParallelWrapper):
    """The innermost wrapper: records every step of the env itself, whatever other wrappers do.

    Args:
        env: The game's own env.
        game: The game.

    Attributes:
        ticks: Rewards (agents,) and facts of the env's steps since the list was last cleared.
    """

    def __init__(self, env: ParallelEnv, game: Game) -> None:
        super().__init__(env)
        self._game = game
        self.ticks: list[tuple[np.ndarray, Arrays]] = []

    def step(self, actions: dict[str, Any]) -> Any:
        """Steps the env and records its rewards and facts."""
        result = super().step(actions)
        rewards = np.array([result[1].get(agent, 0.0) for agent in self._game.everyone])
        self.ticks.append((rewards, self._game.facts(self.unwrapped)))
        return result


class PettingZooWorld:
    """B games, each with its own PettingZoo env.

    Args:
        game: The game.
        num_games: B.
        wrap: Adds wrappers to an env. Default: adds none.
        render_mode: PettingZoo's `render_mode`. Default: None.

    Attributes:
        envs: The B wrapped envs.
    """

    can_be_saved = False  # many envs are constructed afresh when they are unpickled

    def __init__(
        self, game: Game, num_games: int, wrap: Wrap = lambda env: env, render_mode: str | None = None
    ) -> None:
        self._game, self.num_games = game, num_games
        self._recorders = [TickRecorder(game.parallel_env(render_mode), game) for _ in range(num_games)]
        self.envs = [wrap(recorder) for recorder in self._recorders]
        self._groups = {**game.classes, **game.others}
        self._seen: list[dict[str, Any]] = [{}] * num_games

    def reset(self, games: Sequence[int], seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Starts new episodes in some games."""
        for game, seed in zip(games, seeds, strict=True):
            self._seen[game], _ = self.envs[game].reset(seed=seed, options=options)
            self._recorders[game].ticks.clear()

    def step(self, actions: Arrays, running: np.ndarray) -> Played:
        """Steps the running games.

        Raises:
            RuntimeError: If some team members have left a game before the others.
        """
        rewards = np.zeros((self.num_games, len(self._game.everyone)))
        terminated, truncated = np.zeros((2, self.num_games), bool)
        ticks, numbers = [], {}
        for game in np.flatnonzero(running).tolist():
            taken = {agent: chosen[game] for agent, chosen in actions.items()}
            self._seen[game], rewarded, *ends, _ = self.envs[game].step(taken)
            for flags, by_agent in zip((terminated, truncated), ends, strict=True):
                flags[game] = self._common_flag(by_agent, game)
            rewards[game] = [rewarded[agent] for agent in self._game.everyone]
            ticks += [
                Tick(np.array([game]), own[None], {name: value[None] for name, value in facts.items()})
                for own, facts in self._recorders[game].ticks
            ]
            self._recorders[game].ticks.clear()
            numbers[f"game {game}"] = {"actions": taken, "observations": self._seen[game], "rewards": rewarded}
        return Played(
            rewards, terminated, truncated, ticks, numbers if self.num_games > 1 else numbers.get("game 0", {})
        )

    def show(self) -> Seen:
        """Returns the current observations and state of the games."""
        observations = {
            group: np.array([[seen[agent] for agent in agents] for seen in self._seen])
            for group, agents in self._groups.items()
            if agents
        }
        facts = [self._game.facts(env.unwrapped) for env in self.envs]
        return Seen(observations, {name: np.stack([each[name] for each in facts]) for name in facts[0]})

    def close(self) -> None:
        """Closes the envs, which frees the resources of rendering."""
        for env in self.envs:
            env.close()

    def _common_flag(self, by_agent: dict[str, bool], game: int) -> bool:
        missing = [agent for agent in self._game.team if agent not in by_agent]
        if missing:
            raise RuntimeError(
                f"{type(self._game).__name__}, game {game}: expected terminations and truncations of all team members, "
                f"got none for {', '.join(missing)}. Return both for every agent that acted."
            )
        flags = {agent: bool(by_agent[agent]) for agent in self._game.team}
        if len(set(flags.values())) > 1:
            left = ", ".join(agent for agent, flag in flags.items() if flag)
            raise RuntimeError(
                f"{type(self._game).__name__}, game {game}: expected all team members to leave an episode together, "
                f"got {left} leaving before the others. Keep them in the game, without effect, until it ends."
            )
        return all(flags.values())
