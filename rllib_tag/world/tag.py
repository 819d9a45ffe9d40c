"""MPE's `simple_tag_v3` as a `Game`: class A sees the landmarks, class B sees the prey."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
from mpe2 import simple_tag_v3
from pettingzoo import ParallelEnv

from rllib_tag.names import GOOD_POLICY, POLICIES
from rllib_tag.world.behaviours import evasive_actions
from rllib_tag.world.game import Arrays, Game, Played, Seen
from rllib_tag.world.layout import ClassView, MessageLayout, present_key
from rllib_tag.world.mixed_env import MixedEnv
from rllib_tag.world.observations import SEES, SENSES, decode
from rllib_tag.world.roster import Mixture, Roster
from rllib_tag.world.simulator import SIZE, SimpleTagVec
from rllib_tag.world.streams import Streams

# MPE has no walls. Critics and shaping take everybody for being within these coordinates: a critic that extrapolates
# beyond them may reward a class for leaving the game.
BOUND = 2.0


@dataclasses.dataclass(frozen=True)
class TagGame(Game):
    """Class A and class B adversaries hunt good agents.

    An adversary sees its own position and velocity in absolute coordinates. Class A also sees the position of every
    landmark, and class B the position and velocity of every good agent. With `full_observation`, both see both.

    Args:
        roster: The agents and their classes.
        num_obstacles: The number of landmarks.
        max_cycles: The maximum number of steps per episode.
        continuous_actions: Whether actions are Box(0, 1, (5,)) instead of Discrete(5).
        full_observation: Whether every adversary gets both class views.
        good_policy: `random`, `evasive` or `learned`; None if `prey` is given.
        terminate_on_success: mpe2's option of this name.
        prey: Maps the good agents' observations, (M, ...) by key, to M actions. Default: None.
        mixture: The games of which each episode draws one; `roster` and `num_obstacles` are then the largest. Default:
            None, all episodes are of one size.
    """

    roster: Roster
    num_obstacles: int
    max_cycles: int
    continuous_actions: bool
    full_observation: bool
    good_policy: str | None
    terminate_on_success: bool
    prey: Callable[[Arrays], np.ndarray] | None = None
    mixture: Mixture | None = None

    team_name = "adversary"

    @property
    def fixed_length(self) -> bool:  # type: ignore[override]
        """Whether every episode has `max_cycles` steps."""
        return not self.terminate_on_success

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        """The adversaries by class."""
        return {name: self.roster.members(name) for name in POLICIES}

    @property
    def others(self) -> Mapping[str, tuple[str, ...]]:
        """The good agents."""
        return {GOOD_POLICY: self.roster.good_agents}

    @property
    def others_learn(self) -> bool:  # type: ignore[override]
        """Whether the good agents act by a policy."""
        return self.good_policy == "learned"

    @cached_property
    def layout(self) -> MessageLayout:
        """The layout of a message: 8 + 2z + 4y numbers for z landmarks and y good agents."""
        roster = self.roster
        counts = {"landmarks": self.num_obstacles, "good": roster.num_good}
        sees = tuple(self._sees(name) for name in POLICIES)
        sizes = (roster.num_class_a, roster.num_class_b)
        return MessageLayout(SENSES, counts, sees, sizes, varies=self.mixture is not None)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """Creates a new env of mpe2."""
        if self.mixture is not None:
            return MixedEnv(self.mixture, self.roster, self.num_obstacles, partial(self._env, render_mode))
        return self._env(render_mode, self.roster.num_adversaries, self.roster.num_good, self.num_obstacles)

    def _env(self, render_mode: str | None, num_adversaries: int, num_good: int, num_obstacles: int) -> ParallelEnv:
        return simple_tag_v3.parallel_env(
            num_good=num_good,
            num_adversaries=num_adversaries,
            num_obstacles=num_obstacles,
            max_cycles=self.max_cycles,
            continuous_actions=self.continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=True,
            terminate_on_success=self.terminate_on_success,
        )

    def facts(self, env: ParallelEnv) -> Arrays:
        """Returns `positions` and `velocities` (N + y, 2), adversaries first, and `landmarks` (z, 2).

        If the size of a game is drawn, also `present` (N + y + z,), and who takes no part is `elsewhere`.
        """
        if isinstance(env, MixedEnv):
            return env.spread(self._facts(env.env.unwrapped))
        return self._facts(env)

    @staticmethod
    def _facts(env: ParallelEnv) -> dict[str, np.ndarray]:
        world = env.world
        return {
            "positions": np.array([agent.state.p_pos for agent in world.agents]),
            "velocities": np.array([agent.state.p_vel for agent in world.agents]),
            "landmarks": np.array([mark.state.p_pos for mark in world.landmarks]).reshape(-1, 2),
        }

    def _sees(self, name: str) -> tuple[str, ...]:
        return tuple(SENSES.kinds) if self.full_observation else SEES[name]

    def see(self, name: str, observation: np.ndarray, facts: Arrays) -> ClassView:
        """Returns what a class sees, from the (wrapped) MPE observations of its members (..., n, D)."""
        fields = decode(np.asarray(observation, np.float32), self.roster, self.num_obstacles, good=False)
        position = fields.position[..., None, :]
        seen, present = {}, {}
        for kind in self._sees(name):
            if kind == "landmarks":
                seen[kind] = fields.landmarks + position
            else:
                seen[kind] = np.concatenate([fields.good + position, fields.good_velocities], axis=-1)
            if self.mixture is not None:
                here = self.present(facts)[kind][..., None, :]  # (..., 1, K), the same for all who see it
                seen[kind] = np.where(here[..., None], seen[kind], 0)
                present[kind] = np.broadcast_to(here, seen[kind].shape[:-1])
        return ClassView(np.concatenate([fields.position, fields.velocity], axis=-1), seen, present)

    def present(self, facts: Arrays) -> Arrays:
        """Returns who takes part, if the size of a game is drawn: booleans for `team`, `good` and `landmarks`."""
        if self.mixture is None:
            return {}
        x = self.roster.num_adversaries
        parts = np.split(facts["present"], [x, x + self.roster.num_good], axis=-1)
        return dict(zip(("team", "good", "landmarks"), parts, strict=True))

    def positions(self, facts: Arrays) -> np.ndarray:
        """Returns the positions of the adversaries: (..., N, 2)."""
        return facts["positions"][..., : self.roster.num_adversaries, :]

    def state(self, facts: Arrays) -> Arrays:
        """Returns `team` (..., N, 4) and `good` (..., y, 4), position and velocity, and `landmarks` (..., z, 2).

        A coordinate beyond `BOUND` is given as `BOUND`.
        """
        moving = np.concatenate([_bounded(facts["positions"]), facts["velocities"]], axis=-1)
        x = self.roster.num_adversaries
        return {"team": moving[..., :x, :], "good": moving[..., x:, :], "landmarks": facts["landmarks"]}

    def observe_others(self, seen: Seen) -> Arrays:
        """Returns what the good agents observe: float32 arrays (B, y, ...) by the keys of `TagEnv`."""
        raw = np.asarray(seen.observations[GOOD_POLICY], np.float32)
        fields = decode(raw, self.roster, self.num_obstacles, good=True)
        position = fields.position[..., None, :]
        out = {
            "own": np.concatenate([fields.position, fields.velocity], axis=-1),
            "adversaries": fields.adversaries + position,
            "good": np.concatenate([fields.good + position, fields.good_velocities], axis=-1),
            "landmarks": fields.landmarks + position,
        }
        if self.mixture is not None:
            here, y = self.present(seen.facts), self.roster.num_good
            present = {
                "adversaries": np.repeat(here["team"][:, None], y, axis=1),
                "good": np.stack([np.delete(here["good"], i, axis=-1) for i in range(y)], axis=-2),
                "landmarks": np.repeat(here["landmarks"][:, None], y, axis=1),
            }  # (B, y, K)
            observer = here["good"][..., None]
            out["own"] = np.where(observer, out["own"], 0)
            for kind, which in present.items():
                out[kind] = np.where((observer & which)[..., None], out[kind], 0)
                out[present_key(kind)] = which
        return {key: np.asarray(value, np.float32) for key, value in out.items() if value.size}

    def act_others(self, seen: Seen, streams: Streams) -> Arrays:
        """Returns the good agents' actions, unless they learn."""
        if self.others_learn:
            return {}
        x, names = self.roster.num_adversaries, self.roster.good_agents
        if self.prey is not None:
            observed = self.observe_others(seen)
            B = len(observed["own"])
            chosen = self.prey({key: value.reshape(-1, *value.shape[2:]) for key, value in observed.items()})
            chosen = chosen.reshape(B, len(names), *chosen.shape[1:])
        elif self.good_policy == "evasive":
            positions, landmarks = seen.facts["positions"], seen.facts["landmarks"]
            chosen = evasive_actions(positions[:, x:], positions[:, :x], landmarks, self.continuous_actions)
        else:
            chosen = streams.random_actions(len(names), self.continuous_actions)
        return {agent: chosen[:, i] for i, agent in enumerate(names)}

    def potential(self, facts: Arrays) -> np.ndarray:
        """Returns minus each adversary's distance to the nearest good agent, within `BOUND`: (..., N)."""
        return -self._distances(_bounded(facts["positions"])).min(-1)

    def measure(self, facts: Arrays) -> Arrays:
        """Returns `contacts`: the number of pairs of an adversary and a good agent that touch."""
        touching = self._distances(facts["positions"]) < SIZE["adversary"] + SIZE["good"]
        return {"contacts": touching.sum((-2, -1)).astype(float)}

    def metrics(self, sums: Mapping[str, float], firsts: Mapping[str, float]) -> dict[str, float]:
        """Returns `contacts`, `captured` (1 if there was a contact) and `steps_to_first_contact`.

        Without a contact, `steps_to_first_contact` is `max_cycles`.
        """
        contacts = sums.get("contacts", 0.0)
        return {
            "contacts": contacts,
            "captured": float(contacts > 0),
            "steps_to_first_contact": float(firsts.get("contacts") or self.max_cycles),
        }

    def batched(self, num_games: int) -> TagArrays:
        """Returns B games that run on arrays."""
        return TagArrays(self, num_games)

    def _distances(self, positions: np.ndarray) -> np.ndarray:
        """Returns the distance from each adversary to each good agent: (..., N, y)."""
        x = self.roster.num_adversaries
        offsets = positions[..., :x, None, :] - positions[..., None, x:, :]
        return np.sqrt(np.square(offsets).sum(-1))


def _bounded(positions: np.ndarray) -> np.ndarray:
    return positions.clip(-BOUND, BOUND)


class TagArrays:
    """B games of tag on `SimpleTagVec`.

    Args:
        game: The game.
        num_games: B.
    """

    can_be_saved = True

    def __init__(self, game: TagGame, num_games: int) -> None:
        roster, mixture = game.roster, game.mixture
        self._game, self.num_games = game, num_games
        self.vec = SimpleTagVec(
            num_games, roster.num_good, roster.num_adversaries, game.num_obstacles, game.max_cycles,
            game.continuous_actions, None if mixture is None else mixture.draw,
        )  # fmt: skip

    def reset(self, games: Any, seeds: Any, options: dict[str, Any] | None = None) -> None:
        """Starts new episodes in some games."""
        self.vec.seed(games, seeds)
        self.vec.restart(np.asarray(games))

    def step(self, actions: Arrays, running: np.ndarray) -> Played:
        """Steps all games; they all end at the same step, so all of them are running."""
        by_agent, ended = self.vec.advance(actions)
        rewards = np.stack([by_agent[agent] for agent in self._game.everyone], axis=1)
        numbers = {"rewards": rewards, "positions": self.vec.positions, "velocities": self.vec.velocities}
        return Played(rewards, np.zeros_like(ended), ended, None, numbers)

    def show(self) -> Seen:
        """Returns the current observations and state of the games."""
        adversaries, good = (raw.swapaxes(0, 1) for raw in self.vec.observe_all())
        split = self._game.roster.num_class_a
        groups = adversaries[:, :split], adversaries[:, split:], good
        observations = dict(zip((*POLICIES, GOOD_POLICY), groups, strict=True))
        names = ("positions", "velocities", "landmarks", *(() if self._game.mixture is None else ("present",)))
        facts = {name: getattr(self.vec, name) for name in names}
        return Seen(observations, facts)
