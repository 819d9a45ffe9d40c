"""B games with communication: rewards, shaping, statistics, messages and links, the same for every kind of world."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rllib_tag.world.comm import links
from rllib_tag.world.episode_stats import EpisodeStats
from rllib_tag.world.finite import check_finite
from rllib_tag.world.game import Arrays, Game, World
from rllib_tag.world.history import History
from rllib_tag.world.layout import ClassView, present_key
from rllib_tag.world.streams import OTHERS, RANGES, Streams


@dataclasses.dataclass(frozen=True)
class TeamView:
    """The messages, links and critics' state of B games at one step.

    Args:
        messages: (B, N, F) what each team member says, laid out as in `Game.layout`.
        links: (B, N, N) booleans.
        state: The critics' state, (B, K, D) by kind; `team` includes each agent's class one-hot. If games vary in size,
            also which entities there are, (B, K) by `present_key` of the kind.
        others: What other agents observe if they learn, (B, n, ...) by key; empty if there are none.
        ages: (B,) steps since the reset; 0 right after it.
        present: (B, agents) which of the agents that act take part; None if all do.
    """

    messages: np.ndarray
    links: np.ndarray
    state: Arrays
    others: Arrays
    ages: np.ndarray
    present: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class TeamStep:
    """The outcome of one step of B games.

    Args:
        rewards: (B, agents) rewards of the agents that act by a policy, including shaping.
        terminated: (B,) which games have terminated.
        truncated: (B,) which games have been truncated.
        final: If any game has ended, the view of all games before the ended ones were restarted; otherwise None.
        stats: The episode metrics of the games that have ended, by game index.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final: TeamView | None
    stats: Mapping[int, dict[str, float]]


class TeamGames:
    """B games in lockstep whose teams communicate.

    Args:
        game: The game.
        world: The world that runs it.
        comm_range: Euclidean range of links, or several, of which each episode draws one evenly.
        history_length: T, the number of messages kept per sender.
        shaping: Weight of potential-based reward shaping. Default: 0.
        shaping_gamma: Discount of the shaping. Default: 0.99.

    Attributes:
        agents: The agents that act by a policy: the team, then the others if they learn.
        view: The current view of the games.
        history: The most recent messages.
        stats: The statistics of the current episodes.
        comm_ranges: (B,) the range of links in each game.
    """

    def __init__(
        self, game: Game, world: World, *, comm_range: float | Sequence[float], history_length: int,
        shaping: float = 0.0, shaping_gamma: float = 0.99,
    ) -> None:  # fmt: skip
        self.game, self.world, self.num_games = game, world, world.num_games
        self._choices, self._shaping, self._gamma = np.atleast_1d(np.asarray(comm_range, float)), shaping, shaping_gamma
        self.comm_ranges = np.full(self.num_games, self._choices[0])
        self.agents = game.acting
        self.history = History(history_length, self.num_games)
        self.stats = EpisodeStats(game, self.num_games)
        self._streams, self._draws = Streams(self.num_games), Streams(self.num_games)
        self._one_hot = np.eye(len(game.classes), dtype=np.float32)[game.class_of]
        self._running = np.ones(self.num_games, bool)
        self._potential = np.zeros((self.num_games, len(game.team)))
        self.view: TeamView

    @property
    def facts(self) -> Arrays:
        """The true world state, (B, ...) by name."""
        return self._seen.facts

    def reset(self, seeds: Sequence[int | None] | None = None, **options: Any) -> None:
        """Starts new episodes in all games; the same seeds and actions give the same episodes.

        Args:
            seeds: One seed per game; with None, a game continues its random streams. Default: all continue.
            **options: Passed to the world's `reset`.
        """
        self._restart(range(self.num_games), seeds or [None] * self.num_games, **options)

    def step(self, actions: Arrays, restart: bool = True) -> TeamStep:
        """Steps all running games.

        Args:
            actions: (B, ...) for every agent in `agents`.
            restart: Whether a game that ends starts a new episode, without a new seed; otherwise it stops.
                Default: True.

        Raises:
            FloatingPointError: If a number that went in or came out is not finite.
        """
        others = self.game.act_others(self._seen, self._streams)
        played = self.world.step({**actions, **others}, self._running)
        check_finite(f"{type(self.game).__name__}.step", played.numbers)
        self.history.add(self._look())
        self.view = self._view()
        if played.ticks is None:
            self.stats.step(slice(None), played.rewards, self.facts, self.view.links)
        else:
            for tick in played.ticks:
                self.stats.step(tick.games, tick.rewards, tick.facts, self._links(tick.facts, tick.games))
        rewards = played.rewards[:, : len(self.agents)].copy()
        if self._shaping:
            before, self._potential = self._potential, self.game.potential(self.facts)
            shaped = self._shaping * (self._gamma * self._potential - before)
            if self.view.present is not None:
                shaped = np.where(self.view.present[:, : len(self.game.team)], shaped, 0)
            rewards[:, : len(self.game.team)] += shaped
        ended = (played.terminated | played.truncated) & self._running
        if not ended.any():
            return TeamStep(rewards, played.terminated, played.truncated, None, {})
        final, games = self.view, np.flatnonzero(ended).tolist()
        stats = {game: self.metrics(game) for game in games}
        if restart:
            self._restart(games, [None] * len(games))
        else:
            self._running = self._running & ~ended
        return TeamStep(rewards, played.terminated, played.truncated, final, stats)

    def metrics(self, game: int) -> dict[str, float]:
        """Returns the metrics of a game's episode so far; with a range that was drawn, also its return by range."""
        out, name = self.stats.summary(game), f"return_{self.game.team_name}"
        drawn = {f"{name}_range_{self.comm_ranges[game]:g}": out[name]} if len(self._choices) > 1 else {}
        return {**out, **drawn}

    def _restart(self, games: Sequence[int], seeds: Sequence[int | None], **options: Any) -> None:
        games = list(games)
        self._streams.restart(games, seeds, OTHERS)
        if len(self._choices) > 1:
            self._draws.restart(games, seeds, RANGES)
            for game in games:
                self.comm_ranges[game] = self._draws.rngs[game].choice(self._choices)
        self.world.reset(games, seeds, **options)
        self._running[games] = True
        self.stats.restart(games)
        self.history.restart(games, self._look())
        if self._shaping:
            self._potential = self.game.potential(self.facts)
        self.view = self._view()

    def _look(self) -> np.ndarray:
        """Reads the current state of the world and returns the team's messages about it, (B, N, F)."""
        self._seen = self.world.show()
        messages = self.game.layout.messages([self._class_view(name) for name in self.game.classes])
        present = self.game.present(self.facts)
        return messages * present["team"][..., None] if present else messages

    def _class_view(self, name: str) -> ClassView:
        game, B, n = self.game, self.num_games, len(self.game.classes[name])
        if not n:
            return ClassView(np.zeros((B, 0, game.layout.own.stop), np.float32), {})
        view, senses = game.see(name, self._seen.observations[name], self.facts), game.layout.senses
        what = f"{type(game).__name__}.see, {name}"
        _check_shape(f"{what}: own", view.own, (B, n, senses.own[senses.classes.index(name)]))
        for kind, entities in view.entities.items():
            if kind not in senses.kinds:
                raise ValueError(
                    f"{what}: expected {', '.join(senses.kinds) or 'no kinds'} as in the first step, got {kind!r}."
                )
            _check_shape(f"{what}: {kind}", entities, (B, n, game.layout.counts[kind], senses.kinds[kind]))
            if kind in view.present:
                here = view.present[kind]
                _check_shape(f"{what}: {kind}, present", here, (B, n, game.layout.counts[kind]))
                if (here[..., 1:] > here[..., :-1]).any() or entities[~here].any():
                    raise ValueError(
                        f"{what}: {kind}, present: expected the first ones, and zeros in place of the others, got "
                        "others. Put those that are there first."
                    )
        return view

    def _view(self) -> TeamView:
        game, facts = self.game, self.facts
        state = {kind: values.astype(np.float32) for kind, values in game.state(facts).items() if values.shape[-2]}
        one_hot = np.broadcast_to(self._one_hot, (self.num_games, *self._one_hot.shape))
        name, (N, _) = type(game).__name__, one_hot.shape[1:]
        for kind, values in state.items():
            count = N if kind == "team" else values.shape[-2]
            _check_shape(f"{name}.state: {kind}", values, (self.num_games, count, game.layout.senses.state[kind]))
        state["team"] = np.concatenate([state["team"], one_hot], axis=-1)
        present = game.present(facts)
        for kind in present.keys() & state.keys():
            state[kind] = state[kind] * present[kind][..., None]
            state[present_key(kind)] = present[kind].astype(np.float32)
        _check_shape(f"{name}.positions", game.positions(facts), (self.num_games, N, 2))
        acting = [present[group] for group in ("team", *(game.others if game.others_learn else ()))] if present else []
        return TeamView(
            self.history.sent[-1],
            self._links(facts),
            state,
            game.observe_others(self._seen) if game.others_learn else {},
            self.history.ages.copy(),
            np.concatenate(acting, axis=-1) if acting else None,
        )

    def _links(self, facts: Arrays, games: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns who is linked to whom in some games: (games, N, N) booleans. Nobody is linked to the absent."""
        linked = links(self.game.positions(facts), self.comm_ranges[games])
        present = self.game.present(facts)
        if not present:
            return linked
        team = present["team"]
        return linked & team[..., None] & team[..., None, :] | np.eye(team.shape[-1], dtype=bool)


def _check_shape(what: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises unless an array of a lab's game has the expected shape, which must be the same in all games and steps."""
    if np.shape(values) != shape:
        raise ValueError(
            f"{what}: expected shape {shape}, where the first axis is that of the games, got {np.shape(values)}. "
            "Index from the end, as in x[..., :2], and use the same sizes in every step."
        )
