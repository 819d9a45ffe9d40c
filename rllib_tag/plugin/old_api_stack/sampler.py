"""Sampling on arrays: a rollout worker that runs no Python code per agent."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ray import cloudpickle as pickle
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.spaces.space_utils import clip_action, unsquash_action
from torch.utils import deterministic

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.old_api_stack.runner import TagRunner
from rllib_tag.plugin.old_api_stack.team_policy import PRESENT, Observed, TeamPolicy, agent_steps, sharing
from rllib_tag.plugin.ray_internals import RolloutMetrics, sub_environment_seed
from rllib_tag.world.history import num_valid
from rllib_tag.world.team_games import TeamView

# Consecutive steps of one game per row of a batch. A message that is in several of their histories is encoded only
# once. Longer stretches save little more and mix a minibatch less well.
STRETCH = 10
FORMAT = 1  # of a sampling state; raise it whenever running games or their views get other attributes
# Attributes of a sampler that change while it samples.
RUNNING = ("_games", "_returns", "_finished")


class TeamBatch(MultiAgentBatch):
    """A batch whose rows contain stretches of several agents' steps."""

    def agent_steps(self) -> int:
        """Returns the number of agent steps in all rows."""
        return sum(map(agent_steps, self.policy_batches.values()))


class BatchedSampler(TagRunner):
    """Samples `num_envs_per_env_runner` games at once, with one forward pass per policy and step.

    Weights, metrics, checkpoints, evaluation workers and restarts are RLlib's own. For the same seeds and actions,
    observations, rewards, values and advantages equal those of RLlib's default sampler. The metrics that `TagCallbacks`
    reports are always reported; callbacks for episodes and samples are not called.

    For use with `TeamPPO`: the rows of a batch are those of `TeamPolicy`.
    """

    def prepare(self) -> None:
        """Starts the games.

        Raises:
            ConfigError: If the environment is not a `CommEnv`.
        """
        if self.seed is not None:
            # With a seed, RLlib asks torch for deterministic algorithms. On a CPU, torch then also fills new memory
            # with NaN, which takes a fifth of the time and only matters to code that reads memory before writing it.
            deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._finished: list[RolloutMetrics] = []
        self._waiting: list[tuple[MultiAgentBatch, RolloutMetrics]] = []
        if self.env is None:
            return
        if not isinstance(self.env, CommEnv):
            raise ConfigError(
                f"BatchedSampler: expected rllib_tag.TagEnv or CommEnv, got {type(self.env).__name__}. Use PPO."
            )
        config, num_envs = self.config, self.config.num_envs_per_env_runner
        # RLlib's evaluation takes one episode per call until it has the requested number.
        self._one_by_one = config.in_evaluation and config.evaluation_duration_unit == "episodes"
        if self._one_by_one and config.evaluation_duration != "auto":
            runners = max(1, config.evaluation_num_env_runners)
            num_envs = min(num_envs, math.ceil(config.evaluation_duration / runners))
        self._games = self.env.config.games(self.env.config.batched_world(num_envs))
        places: dict[str, list[int]] = {}
        for place, agent in enumerate(self._games.agents):
            places.setdefault(self.policy_mapping_fn(agent, None, worker=self), []).append(place)
        self._places = places
        if self.seed is not None:  # the seeds that RLlib gives its sub-environments, which it resets once more
            self._games.reset([sub_environment_seed(self.seed, self.worker_index, i) for i in range(num_envs)])
        self._games.reset()
        self._returns = np.zeros((num_envs, len(self._games.agents)))
        self._stretch = self._common_stretch()

    def _common_stretch(self) -> int:
        """Returns the steps per row, which must divide the fragments of all runners and suit a minibatch."""
        config = self.config
        if config.batch_mode == "complete_episodes":
            length = self._games.game.max_cycles
        else:
            runners = range(1, config.num_env_runners + 1) if config.num_env_runners else [0]
            length = math.gcd(*(config.get_rollout_fragment_length(worker_index=i) for i in runners))
        largest = max(len(places) for places in self._places.values())
        limit = min(STRETCH, max(1, (config.minibatch_size or STRETCH * largest) // largest))
        return max(size for size in range(1, limit + 1) if length % size == 0)

    def sample_or_raise(self, **kwargs: Any) -> MultiAgentBatch:
        """Returns one fragment of every game: `rollout_fragment_length` steps, or complete episodes.

        If evaluation counts episodes, each call returns one episode.
        """
        if not self._one_by_one:
            return self._play()
        if not self._waiting:
            batch, B = self._play(), self._games.num_games
            ended, self._finished = self._finished[-B:], self._finished[:-B]
            for i in range(B):
                parts = {}
                for name, part in batch.policy_batches.items():
                    rows = len(part) // B
                    parts[name] = part[i * rows : (i + 1) * rows]
                self._waiting.append((TeamBatch(parts, batch.count // B), ended[i]))
        batch, metrics = self._waiting.pop(0)
        self._finished.append(metrics)
        return batch

    def _play(self) -> MultiAgentBatch:
        num_steps = self.config.get_rollout_fragment_length(worker_index=self.worker_index)
        complete = self.config.batch_mode == "complete_episodes"
        if complete:
            num_steps = self._games.game.max_cycles - int(self._games.view.ages[0])
        fragment = _Fragment(recent=self._games.history.sent[:-1])
        for _ in range(num_steps):
            self._step(fragment)
        if complete and any(cut.step < num_steps - 1 for cut in fragment.cuts):
            raise RuntimeError(
                f"{type(self._games.game).__name__}: expected episodes of max_cycles = {self._games.game.max_cycles} "
                "steps, got a shorter one. Set fixed_length = False in the game."
            )
        running = np.arange(self._games.num_games)
        if fragment.cuts and fragment.cuts[-1].step == num_steps - 1:
            running = np.setdiff1d(running, fragment.cuts[-1].games)
        if len(running):
            view, recent = self._games.view, self._games.history.sent[:-1]
            fragment.cuts.append(_Cut(num_steps - 1, running, np.zeros(len(running), bool), recent, view))
        batches = {name: part for names in self._sharing() for name, part in self._batches(names, fragment).items()}
        return TeamBatch(batches, num_steps * self._games.num_games)

    def get_metrics(self) -> list[RolloutMetrics]:
        """Returns the metrics of the episodes that have ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def sampling_state(self) -> bytes:
        """Returns what the next samples depend on and RLlib's checkpoints lack: running games and random states."""
        can_be_saved = self.env is not None and self._games.world.can_be_saved
        games = {key: value for key, value in vars(self).items() if key in RUNNING} if can_be_saved else None
        return pickle.dumps({"format": FORMAT, "kind": self._kind(), "games": games, "random": random_states()})

    def set_sampling_state(self, state: bytes | None) -> str | None:
        """Continues from a `sampling_state`, unless it is that of different games.

        Args:
            state: The state; None if there is none.

        Returns:
            Why sampling does not continue exactly; None if it does.
        """
        if state is None:
            return "was down when the checkpoint was written; its games start over"
        try:
            loaded = pickle.loads(state)
        except (ImportError, AttributeError):
            loaded = {}
        if loaded.get("format") != FORMAT:
            return "cannot read its games in the checkpoint, saved by another version of rllib_tag; they start over"
        if loaded["kind"] != self._kind():
            return "plays different games than when the checkpoint was written; they start over"
        if loaded["games"] is None:
            return None if self.env is None else "plays games that cannot be saved; they start over"
        for key, value in loaded["games"].items():
            setattr(self, key, value)
        if not set_random_states(loaded["random"]):
            return "has a different number of GPUs than when the checkpoint was written; their random states start over"
        return None

    def _kind(self) -> Any:
        return None if self.env is None else (self.env.config, self._games.num_games)

    def _step(self, fragment: _Fragment) -> None:
        games = self._games
        view, recent = games.view, games.history.sent[:-1]
        actions: dict[str, np.ndarray] = {}
        observed = (
            each
            for names in self._sharing()
            for each in self._features(names, self._observation(self._places_of(names), [view], recent, stretch=1))
        )
        for name, obs in observed:
            policy, places = self.policy_map[name], self._places[name]
            chosen, logp, inputs = policy.act(obs)
            fragment.add(name, actions=chosen, action_logp=logp, action_dist_inputs=inputs)
            if self.config.normalize_actions:
                chosen = unsquash_action(chosen, policy.action_space_struct)
            elif self.config.clip_actions:
                chosen = clip_action(chosen, policy.action_space_struct)
            actions |= {games.agents[place]: chosen[:, i] for i, place in enumerate(places)}
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
        policies = {self._games.agents[place]: name for name, places in self._places.items() for place in places}
        names = [(agent, policies[agent]) for agent in self._games.agents]
        for game, metrics in stats.items():
            returns = self._returns[game]
            here = np.ones(len(names), bool) if final.present is None else final.present[game]
            self._finished.append(
                RolloutMetrics(
                    episode_length=int(final.ages[game]),
                    episode_reward=float(returns.sum()),
                    agent_rewards={names[i]: float(returns[i]) for i in np.flatnonzero(here)},
                    custom_metrics=metrics,
                )
            )
            self._returns[game] = 0

    def _sharing(self) -> list[list[str]]:
        return sharing({name: self.policy_map[name] for name in self._places})

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
            features = self.policy_map[names[0]].features(obs)
        for name, own in self._own(names):
            yield name, {"features": features[:, :, own], "receivers": obs["receivers"][:, own]}

    def _observation(
        self, places: Sequence[int], views: Sequence[TeamView], recent: Sequence[np.ndarray], stretch: int,
        games: np.ndarray | slice = slice(None),
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Returns observations of consecutive steps in rows as `_rows` does: (B * rows, stretch, ...)."""
        if self._games.agents[places[0]] not in self._games.game.team:
            return {key: _rows([view.others[key][games] for view in views], stretch) for key in views[0].others}
        T = self._games.history.length
        out = {kind: _rows([view.state[kind][games] for view in views], stretch) for kind in views[0].state}
        out["links"] = np.packbits(_rows([view.links[games] for view in views], stretch), axis=-1)
        sent = [*recent, *(view.messages for view in views)]
        said = np.stack([messages[games] for messages in sent], axis=1)  # (B, T - 1 + steps, N, F)
        starts = np.arange(0, len(views), stretch)
        messages = said[:, starts[:, None] + np.arange(stretch + T - 1)]  # (B, rows, stretch + T - 1, N, F)
        out["messages"] = messages.reshape(-1, *messages.shape[2:])
        out["history"] = _rows([num_valid(view.ages[games], T) for view in views], stretch)
        out["receivers"] = np.tile(np.array(places), (len(out["messages"]), 1))
        return out

    def _batches(self, names: Sequence[str], fragment: _Fragment) -> dict[str, SampleBatch]:
        """Returns a fragment's batches for policies that share an encoder.

        Only the first policy's batch has what the encoder reads and the critics' state.
        """
        places = self._places_of(names)
        obs = self._observation(places, fragment.views, fragment.recent, self._stretch)
        ends = [self._observation(places, [cut.view], cut.recent, stretch=1, games=cut.games) for cut in fragment.cuts]
        out = {}
        for name, own in self._own(names):
            mine = _for_receivers(obs, own)
            columns = self._columns(name, fragment, mine, [_for_receivers(each, own) for each in ends])
            kept = mine if name == names[0] else {"receivers": mine["receivers"]}
            out[name] = SampleBatch({SampleBatch.OBS: kept, **columns})
        return out

    def _columns(
        self, name: str, fragment: _Fragment, obs: Observed, ends: Sequence[Observed]
    ) -> dict[str, np.ndarray]:
        """Returns all columns of a policy's batch but the observations.

        Args:
            name: The policy.
            fragment: What was played.
            obs: The policy's observations of it.
            ends: Those at the end of each cut's trajectories.
        """
        policy: TeamPolicy = self.policy_map[name]
        num_steps, places, stretch = len(fragment.views), self._places[name], self._stretch
        B, n = self._games.num_games, len(places)
        values = policy.values(obs).reshape(B, num_steps, n)
        following = np.concatenate([values[:, 1:], np.zeros_like(values[:, :1])], axis=1)
        is_cut = np.zeros((B, num_steps), bool)
        for cut, end in zip(fragment.cuts, ends, strict=True):
            after = policy.values(end)[:, 0]
            following[cut.games, cut.step] = np.where(cut.terminated[:, None], 0, after)
            is_cut[cut.games, cut.step] = True
        rewards = np.stack(fragment.rewards, axis=1)[:, :, places].astype(np.float32)  # (B, steps, n)
        advantages = generalized_advantages(
            rewards, values, following, is_cut, policy.config["gamma"], policy.config["lambda"]
        )
        columns = {key: _rows(steps, stretch) for key, steps in fragment.columns[name].items()}
        for key, array in (
            (SampleBatch.REWARDS, rewards),
            (SampleBatch.VF_PREDS, values),
            (Postprocessing.ADVANTAGES, advantages),
            (Postprocessing.VALUE_TARGETS, advantages + values),
        ):
            columns[key] = array.reshape(-1, stretch, n)
        present = [view.present[:, places] for view in fragment.views if view.present is not None]
        if present:
            columns[PRESENT] = _rows(present, stretch)
        return columns


def _for_receivers(obs: dict[str, np.ndarray], which: slice) -> dict[str, np.ndarray]:
    """Returns observations of teams for some of their receivers; of other agents, as they are."""
    return {**obs, "receivers": obs["receivers"][:, which]} if "receivers" in obs else obs


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

    def add(self, policy: str, **values: np.ndarray) -> None:
        """Appends the columns of a policy for one step."""
        columns = self.columns.setdefault(policy, {})
        for key, value in values.items():
            columns.setdefault(key, []).append(value)


def random_states() -> dict[str, Any]:
    """Returns the states of this process's random generators."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> bool:
    """Restores what `random_states` returned, but for GPUs only if their number is the same; returns whether it is."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    same_gpus = len(states["cuda"]) == torch.cuda.device_count()
    if same_gpus:
        torch.cuda.set_rng_state_all(states["cuda"])
    return same_gpus


def _rows(steps: Sequence[np.ndarray], stretch: int) -> np.ndarray:
    """Splits arrays (B, ...) of consecutive steps into rows of `stretch` steps of a game: (B * rows, stretch, ...)."""
    stacked = np.stack(steps, axis=1)
    return stacked.reshape(-1, stretch, *stacked.shape[2:])


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
