"""Playing games on arrays, with no Python code per agent, and what was played as columns of team rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.utils.spaces.space_utils import clip_action, unsquash_action
from torch import Tensor
from torch.utils import deterministic

from rllib_tag.nn.network import AdversaryNet, GoodNet
from rllib_tag.plugin.team_rows import PRESENT, Observed, TeamBatch, rows_of, sharing
from rllib_tag.world.history import num_valid
from rllib_tag.world.team_games import TeamGames, TeamView

# Consecutive steps of one game per row of a batch. A message that is in several of their histories is encoded only
# once. Longer stretches save little more and mix a minibatch less well.
STRETCH = 10


class Actor(Protocol):
    """What acts for the agents of a policy, and values what they see."""

    action_space_struct: Any  # the action space, as RLlib's utilities expect it

    @property
    def net(self) -> AdversaryNet | GoodNet:
        """Its network."""

    @property
    def gamma(self) -> float:
        """The discount."""

    @property
    def lambda_(self) -> float:
        """The discount of the advantages' estimator."""

    def act(self, obs: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chooses actions in B games.

        Args:
            obs: As described for `TeamNet`, with R = B rows and C = 1.

        Returns:
            Actions (B, n, ...) before they are unsquashed or clipped, their log-probabilities (B, n) and the
            action-distribution inputs (B, n, num_outputs).
        """

    def values(self, obs: Observed) -> np.ndarray:
        """Returns values (R, C, n)."""

    def features(self, obs: Observed) -> Tensor:
        """Returns the encoder's output for the receivers of the observations: (R, C, n, H)."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """An episode that has ended.

    Args:
        length: Its steps.
        returns: The return of each agent that took part, shaping included.
        metrics: Its metrics.
    """

    length: int
    returns: Mapping[str, float]
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A step after which the trajectories of some games end.

    Args:
        step: The step after which they end.
        games: The indices of these games.
        terminated: (games,) whether the episode terminated; otherwise, the value of the next view is bootstrapped.
        recent: The T - 1 messages before the next view, (B, N, F) each.
        view: The next view.
    """

    step: int
    games: np.ndarray
    terminated: np.ndarray
    recent: Sequence[np.ndarray]
    view: TeamView


@dataclasses.dataclass
class _Fragment:
    """The views, actions and rewards of a fragment, step by step.

    Args:
        recent: The T - 1 messages before the first step, (B, N, F) each.
        views: The view of the games before each step.
        rewards: (B, agents) for each step.
        columns: By policy and column, (B, n, ...) for each step.
        cuts: The ends of trajectories, in order.
    """

    recent: Sequence[np.ndarray]
    views: list[TeamView] = dataclasses.field(default_factory=list)
    rewards: list[np.ndarray] = dataclasses.field(default_factory=list)
    columns: dict[str, dict[str, list[np.ndarray]]] = dataclasses.field(default_factory=dict)
    cuts: list[_Cut] = dataclasses.field(default_factory=list)

    def add(self, policy: str, values: Mapping[str, np.ndarray]) -> None:
        """Appends the columns of a policy for one step."""
        columns = self.columns.setdefault(policy, {})
        for key, value in values.items():
            columns.setdefault(key, []).append(value)


class GamePlayer:
    """Plays B games at once, with one forward pass per policy and step.

    Args:
        games: The games.
        policy_of: The policy of each agent.
        actors: What acts for each policy.
        config: RLlib's config.

    Attributes:
        games: The games.
        most_agents: The largest number of a policy's agents.
        finished: The ended episodes that were not collected yet.
    """

    def __init__(
        self, games: TeamGames, policy_of: Mapping[str, str], actors: Mapping[str, Actor], config: AlgorithmConfig
    ) -> None:
        # With a seed, RLlib asks torch for deterministic algorithms. On a CPU, torch then also fills new memory with
        # NaN, which takes a fifth of the time and only matters to code that reads memory before writing it.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.games, self._actors, self._config = games, actors, config
        self._places: dict[str, list[int]] = {}
        for place, agent in enumerate(games.agents):
            self._places.setdefault(policy_of[agent], []).append(place)
        self.most_agents = max(map(len, self._places.values()))
        self.finished: list[Episode] = []
        self._returns = np.zeros((games.num_games, len(games.agents)))
        complete = config.batch_mode == "complete_episodes"
        length = games.game.max_cycles if complete else _common_divisor(config)
        self._stretch = stretch_of(length, self.most_agents, config.minibatch_size)

    def sample(self, worker_index: int) -> TeamBatch:
        """Plays one fragment of every game: `rollout_fragment_length` steps, or complete episodes.

        Args:
            worker_index: That of the env runner.
        """
        config, games = self._config, self.games
        complete = config.batch_mode == "complete_episodes"
        num_steps = config.get_rollout_fragment_length(worker_index=worker_index)
        if complete:
            num_steps = games.game.max_cycles - int(games.view.ages[0])
        rows = self.play(num_steps, self._stretch, complete)
        return TeamBatch({name: SampleBatch(part) for name, part in rows.items()}, num_steps * games.num_games)

    def play(self, num_steps: int, stretch: int, complete: bool = False) -> dict[str, dict[str, Any]]:
        """Plays some steps of every game.

        Args:
            num_steps: How many.
            stretch: C, the steps per row.
            complete: Whether they end all episodes, and none before the last step. Default: False.

        Returns:
            The columns of each policy's rows. Of policies that share an encoder, only the first has what the encoder
            reads and the critics' state.

        Raises:
            RuntimeError: If episodes are shorter than they must be.
        """
        games = self.games
        fragment = _Fragment(recent=games.history.sent[:-1])
        for _ in range(num_steps):
            self._step(fragment)
        if complete and any(cut.step < num_steps - 1 for cut in fragment.cuts):
            raise RuntimeError(
                f"{type(games.game).__name__}: expected episodes of max_cycles = {games.game.max_cycles} "
                "steps, got a shorter one. Set fixed_length = False in the game."
            )
        running = np.arange(games.num_games)
        if fragment.cuts and fragment.cuts[-1].step == num_steps - 1:
            running = np.setdiff1d(running, fragment.cuts[-1].games)
        if len(running):
            cut = _Cut(num_steps - 1, running, np.zeros(len(running), bool), games.history.sent[:-1], games.view)
            fragment.cuts.append(cut)
        return {name: part for names in self._sharing() for name, part in self._rows(names, fragment, stretch).items()}

    def state(self) -> dict[str, Any]:
        """Returns what the next steps depend on, but for weights and random generators."""
        return {"games": self.games, "returns": self._returns, "finished": self.finished}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state`."""
        self.games, self._returns, self.finished = (state[key] for key in ("games", "returns", "finished"))

    def _step(self, fragment: _Fragment) -> None:
        games, config = self.games, self._config
        view, recent = games.view, games.history.sent[:-1]
        actions: dict[str, np.ndarray] = {}
        observed = (
            each
            for names in self._sharing()
            for each in self._features(names, self._observation(self._places_of(names), [view], recent, stretch=1))
        )
        for name, obs in observed:
            actor = self._actors[name]
            chosen, logp, inputs = actor.act(obs)
            columns = {Columns.ACTIONS: chosen, Columns.ACTION_DIST_INPUTS: inputs, Columns.ACTION_LOGP: logp}
            fragment.add(name, columns)
            if config.normalize_actions:
                chosen = unsquash_action(chosen, actor.action_space_struct)
            elif config.clip_actions:
                chosen = clip_action(chosen, actor.action_space_struct)
            actions |= {games.agents[place]: chosen[:, i] for i, place in enumerate(self._places[name])}
        before = games.history.sent[1:]
        result = games.step(actions)
        fragment.views.append(view)
        fragment.rewards.append(result.rewards)
        self._returns += result.rewards
        if result.final is not None:
            ended = np.array(list(result.stats))
            step = len(fragment.views) - 1
            fragment.cuts.append(_Cut(step, ended, result.terminated[ended], before, result.final))
            self._finish(result.stats, result.final)

    def _finish(self, stats: Mapping[int, dict[str, float]], final: TeamView) -> None:
        agents = self.games.agents
        for game, metrics in stats.items():
            here = np.ones(len(agents), bool) if final.present is None else final.present[game]
            returns = {agents[i]: float(self._returns[game, i]) for i in np.flatnonzero(here)}
            self.finished.append(Episode(int(final.ages[game]), returns, metrics))
            self._returns[game] = 0

    def _sharing(self) -> list[list[str]]:
        return sharing({name: self._actors[name].net for name in self._places})

    def _places_of(self, names: Sequence[str]) -> list[int]:
        return [place for name in names for place in self._places[name]]

    def _own(self, names: Sequence[str]) -> Iterator[tuple[str, slice]]:
        """Yields policies with the part of `_places_of` that is theirs."""
        start = 0
        for name in names:
            end = start + len(self._places[name])
            yield name, slice(start, end)
            start = end

    def _features(self, names: Sequence[str], obs: dict[str, np.ndarray]) -> Iterator[tuple[str, Observed]]:
        """Yields what each policy acts on: the observations, or if policies share an encoder, its output for them."""
        if len(names) == 1:
            yield names[0], obs
            return
        with torch.no_grad():
            features = self._actors[names[0]].features(obs)
        for name, own in self._own(names):
            yield name, {"features": features[:, :, own], "receivers": obs["receivers"][:, own]}

    def _observation(
        self, places: Sequence[int], views: Sequence[TeamView], recent: Sequence[np.ndarray], stretch: int,
        games: np.ndarray | slice = slice(None),
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Returns observations of consecutive steps in rows as `rows_of` does: (B * rows, stretch, ...)."""
        if self.games.agents[places[0]] not in self.games.game.team:
            return {key: rows_of([view.others[key][games] for view in views], stretch) for key in views[0].others}
        T = self.games.history.length
        out = {kind: rows_of([view.state[kind][games] for view in views], stretch) for kind in views[0].state}
        out["links"] = np.packbits(rows_of([view.links[games] for view in views], stretch), axis=-1)
        sent = [*recent, *(view.messages for view in views)]
        said = np.stack([messages[games] for messages in sent], axis=1)  # (B, T - 1 + steps, N, F)
        starts = np.arange(0, len(views), stretch)
        messages = said[:, starts[:, None] + np.arange(stretch + T - 1)]  # (B, rows, stretch + T - 1, N, F)
        out["messages"] = messages.reshape(-1, *messages.shape[2:])
        out["history"] = rows_of([num_valid(view.ages[games], T) for view in views], stretch)
        out["receivers"] = np.tile(np.array(places), (len(out["messages"]), 1))
        return out

    def _rows(self, names: Sequence[str], fragment: _Fragment, stretch: int) -> dict[str, dict[str, Any]]:
        """Returns a fragment's columns for policies that share an encoder."""
        places = self._places_of(names)
        obs = self._observation(places, fragment.views, fragment.recent, stretch)
        ends = [self._observation(places, [cut.view], cut.recent, stretch=1, games=cut.games) for cut in fragment.cuts]
        out = {}
        for name, own in self._own(names):
            mine = _for_receivers(obs, own)
            columns = self._columns(name, fragment, mine, [_for_receivers(each, own) for each in ends], stretch)
            out[name] = {Columns.OBS: mine if name == names[0] else {"receivers": mine["receivers"]}, **columns}
        return out

    def _columns(
        self, name: str, fragment: _Fragment, obs: Observed, ends: Sequence[Observed], stretch: int
    ) -> dict[str, np.ndarray]:
        """Returns all columns of a policy's rows but the observations.

        Args:
            name: The policy.
            fragment: What was played.
            obs: The policy's observations of it.
            ends: Those at the end of each cut's trajectories.
            stretch: The steps per row.
        """
        actor, places = self._actors[name], self._places[name]
        B, num_steps, n = self.games.num_games, len(fragment.views), len(places)
        values = actor.values(obs).reshape(B, num_steps, n)
        following = np.concatenate([values[:, 1:], np.zeros_like(values[:, :1])], axis=1)
        is_cut = np.zeros((B, num_steps), bool)
        for cut, end in zip(fragment.cuts, ends, strict=True):
            after = actor.values(end)[:, 0]
            following[cut.games, cut.step] = np.where(cut.terminated[:, None], 0, after)
            is_cut[cut.games, cut.step] = True
        rewards = np.stack(fragment.rewards, axis=1)[:, :, places].astype(np.float32)  # (B, steps, n)
        advantages = generalized_advantages(rewards, values, following, is_cut, actor.gamma, actor.lambda_)
        columns = {key: rows_of(steps, stretch) for key, steps in fragment.columns[name].items()}
        for key, array in (
            (Columns.REWARDS, rewards),
            (Columns.VF_PREDS, values),
            (Postprocessing.ADVANTAGES, advantages),
            (Postprocessing.VALUE_TARGETS, advantages + values),
        ):
            columns[key] = array.reshape(-1, stretch, n)
        present = [view.present[:, places] for view in fragment.views if view.present is not None]
        if present:
            columns[PRESENT] = rows_of(present, stretch)
        return columns


def _common_divisor(config: AlgorithmConfig) -> int:
    """Returns the largest length that divides the fragments of all runners."""
    runners = range(1, config.num_env_runners + 1) if config.num_env_runners else [0]
    return math.gcd(*(config.get_rollout_fragment_length(worker_index=i) for i in runners))


def stretch_of(length: int, largest: int, minibatch_size: int | None) -> int:
    """Returns the steps per row, which divide all fragments and suit a minibatch.

    Args:
        length: A length that divides all fragments.
        largest: The largest number of a policy's agents.
        minibatch_size: The agent steps of a minibatch; None for all.
    """
    limit = min(STRETCH, max(1, (minibatch_size or STRETCH * largest) // largest))
    return max(size for size in range(1, limit + 1) if length % size == 0)


def _for_receivers(obs: dict[str, np.ndarray], which: slice) -> dict[str, np.ndarray]:
    """Returns observations of teams for some of their receivers; of other agents, as they are."""
    return {**obs, "receivers": obs["receivers"][:, which]} if "receivers" in obs else obs


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, following: np.ndarray, is_cut: np.ndarray, gamma: float, lambda_: float
) -> np.ndarray:
    r"""Computes generalized advantages of parallel trajectories that are cut after some of the steps.

    .. math::
        \delta_t = r_t + \gamma v'_t - v_t, \qquad A_t = \delta_t + \gamma \lambda A_{t+1}

    where v' is the value of the next observation, and A is 0 after a cut.

    Args:
        rewards: (B, steps, n).
        values: (B, steps, n).
        following: (B, steps, n) values v' of the next observations, 0 after termination.
        is_cut: (B, steps) after which steps a trajectory ends; all end after the last step.
        gamma: The discount.
        lambda_: The discount of the estimator.

    Returns:
        (B, steps, n) float32.

    Source: Schulman et al. 2016.
    """
    errors = rewards + gamma * following - values
    out = np.empty_like(values, dtype=np.float32)
    after = np.zeros_like(values[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        after = errors[:, t] + gamma * lambda_ * np.where(is_cut[:, t, None], 0, after)
        out[:, t] = after
    return out
