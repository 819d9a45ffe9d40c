"""What a game is: what a lab writes to bring its own, and what plays many games of it at once."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

from rllib_tag.world.layout import ClassView, MessageLayout, Senses
from rllib_tag.world.streams import Streams

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What B games show at one step.

    Args:
        observations: The PettingZoo env's own observations, (B, n, ...) by class, and by name of the others' group.
        facts: What `Game.facts` reads of the true world, (B, ...) by name.
    """

    observations: Mapping[str, Any]
    facts: Arrays


class Game(abc.ABC):
    """A game as the encoder, the sampler, the commands and the reports need to know it.

    A lab writes a subclass: which PettingZoo env is played, which agents learn and of which class each is, and what a
    class sees. Arrays of several games have leading axes in front, so methods index from the end: `x[..., :2]`.

    Attributes:
        classes: The agents that learn and talk, by the name of their class, which is that of their policy. The team's
            order is theirs.
        max_cycles: Steps of an episode at most.
        fixed_length: Whether each has as many. Default: yes.
        team_name: What metrics call the team. Default: `team`.
        others_learn: Whether the agents that are no part of the team act by policies, too, one for each group.
            Default: no.

    Example:
        >>> from rllib_tag.games import Spread
        >>> game = Spread(num_scouts=1, num_workers=2)
        >>> game.team
        ('agent_0', 'agent_1', 'agent_2')
        >>> game.layout.senses.kinds  # numbers of each kind of entity
        {'landmarks': 2}
    """

    classes: Mapping[str, Sequence[str]]
    max_cycles: int
    fixed_length = True
    team_name = "team"  # in the names of metrics
    others_learn = False

    @abc.abstractmethod
    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """A new PettingZoo env of this game."""

    @abc.abstractmethod
    def facts(self, env: ParallelEnv) -> Arrays:
        """What the true world of a running env is, as arrays by name; all that the other methods need of it.

        Args:
            env: What `parallel_env` gave, unwrapped by PettingZoo's `unwrapped` where it has wrappers.
        """

    @abc.abstractmethod
    def see(self, name: str, observation: Any, facts: Arrays) -> ClassView:
        """What the agents of a class see.

        Args:
            name: The class.
            observation: (..., n, ...) the env's observations of its n agents.
            facts: What `facts` gave, (..., ...) by name.
        """

    @abc.abstractmethod
    def positions(self, facts: Arrays) -> np.ndarray:
        """Where the team is: (..., N, 2), by which links reach or do not."""

    @abc.abstractmethod
    def state(self, facts: Arrays) -> Arrays:
        """What critics may see: (..., K, D) by kind of entity, the first two numbers of each its position.

        `team` must be among them, (..., N, D) in the team's order; `TeamGames` adds each agent's class.
        """

    def act_others(self, seen: Seen, streams: Streams) -> Arrays:
        """The actions of agents that do not learn, (B, ...) by name. Default: all agents learn.

        Args:
            seen: What the games show.
            streams: A random stream for each game.
        """
        return {}

    def observe_others(self, seen: Seen) -> Arrays:
        """What agents that learn without talking observe: (B, n, ...) by key. Default: there are none."""
        return {}

    def potential(self, facts: Arrays) -> np.ndarray:
        """The potential of reward shaping, (..., N).

        Raises:
            NotImplementedError: If the game has none.
        """
        raise NotImplementedError(f"{type(self).__name__}.potential: expected one, which shaping needs, got none.")

    def measure(self, facts: Arrays) -> Arrays:
        """What is counted of each step besides rewards and links, (...) by name. Default: nothing."""
        return {}

    def metrics(self, sums: Mapping[str, float], firsts: Mapping[str, float]) -> dict[str, float]:
        """An episode's own metrics. Default: the sums.

        Args:
            sums: What `measure` gave, added up over the episode, by name.
            firsts: The first step, from 1 on, at which each was above 0; 0 if none was.
        """
        return dict(sums)

    def batched(self, num_games: int) -> World | None:
        """B games at once on arrays, equal to those of the env. Default: there is no such version."""
        return None

    @property
    def others(self) -> Mapping[str, Sequence[str]]:
        """Agents that are no part of the team, by group. Default: none."""
        return {}

    @cached_property
    def team(self) -> tuple[str, ...]:
        """The N agents that learn and talk, class by class."""
        return tuple(agent for agents in self.classes.values() for agent in agents)

    @cached_property
    def everyone(self) -> tuple[str, ...]:
        """The team, and after it the others."""
        return (*self.team, *(agent for agents in self.others.values() for agent in agents))

    @property
    def acting(self) -> tuple[str, ...]:
        """Those that act by a policy: the team, and after it the others if they learn."""
        return self.everyone if self.others_learn else self.team

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The class of each agent of the team, and the group of each other one."""
        return {agent: group for group, agents in (*self.classes.items(), *self.others.items()) for agent in agents}

    def members(self, group: str) -> tuple[str, ...]:
        """The agents of a class, or of another group."""
        return tuple({**self.classes, **self.others}[group])

    @cached_property
    def class_of(self) -> np.ndarray:
        """The number of each team member's class: (N,) integers."""
        return np.repeat(np.arange(len(self.classes)), [len(agents) for agents in self.classes.values()])

    @cached_property
    def layout(self) -> MessageLayout:
        """What a message of this game holds, found by looking at a first step.

        Raises:
            ValueError: If the game's parts do not fit each other.
        """
        observations, facts, spaces = self._first_look
        self._check_agents(tuple(spaces))
        views = {
            name: self.see(name, np.stack([observations[agent] for agent in agents]), facts)
            for name, agents in self.classes.items()
        }
        for name, view in views.items():
            if np.ndim(view.own) != 2 or np.shape(view.own)[1] < 2:
                raise ValueError(
                    f"{type(self).__name__}.see, {name}: expected own numbers (agents, 2 or more), which begin with a "
                    f"position, got shape {np.shape(view.own)}."
                )
            for kind, entities in view.entities.items():
                if np.ndim(entities) != 3 or np.shape(entities)[2] < 2:
                    raise ValueError(
                        f"{type(self).__name__}.see, {name}: expected {kind} (agents, entities, 2 or more), each of "
                        f"which begins with a position, got shape {np.shape(entities)}."
                    )
        if np.shape(self.positions(facts)) != (len(self.team), 2):
            raise ValueError(
                f"{type(self).__name__}.positions: expected shape {(len(self.team), 2)}, got "
                f"{np.shape(self.positions(facts))}."
            )
        state = self.state(facts)
        if "team" not in state:
            raise ValueError(f"{type(self).__name__}.state: expected team among the kinds, got {', '.join(state)}.")
        kinds: dict[str, tuple[int, int]] = {}
        for view in views.values():
            kinds |= {kind: entities.shape[-2:] for kind, entities in view.entities.items()}
        senses = Senses(
            tuple(self.classes),
            tuple(view.own.shape[-1] for view in views.values()),
            {kind: dim for kind, (_, dim) in kinds.items()},
            {kind: values.shape[-1] for kind, values in state.items()},
        )
        return MessageLayout(senses, {kind: count for kind, (count, _) in kinds.items()})

    @property
    def action_spaces(self) -> Mapping[str, gym.Space]:
        """The action space of each agent of the team."""
        return {agent: self._first_look[2][agent] for agent in self.team}

    @cached_property
    def _first_look(self) -> tuple[Mapping[str, Any], Arrays, Mapping[str, gym.Space]]:
        """What an env of this game shows at its first step: observations, facts, and every agent's action space."""
        env = self.parallel_env()
        observations, _ = env.reset(seed=0)
        facts = self.facts(env.unwrapped)
        spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
        env.close()
        return observations, facts, spaces

    def _check_agents(self, possible: Sequence[str]) -> None:
        name = type(self).__name__
        for group, agents in self.classes.items():
            if not agents:
                raise ValueError(f"{name}.classes: expected at least one agent of each class, got none of {group!r}.")
        if sorted(self.everyone) != sorted(possible):
            raise ValueError(
                f"{name}: expected each agent of the env, {', '.join(possible)}, once in classes or others, got "
                f"{', '.join(self.everyone) or 'none'}."
            )


@dataclasses.dataclass(frozen=True)
class Tick:
    """What one step of the env itself, below its wrappers, did in some games.

    Args:
        games: Indices of the games.
        rewards: (games, agents) the env's own rewards, in the order of `Game.everyone`.
        facts: (games, ...) by name, after the step.
    """

    games: np.ndarray
    rewards: np.ndarray
    facts: Arrays


@dataclasses.dataclass(frozen=True)
class Played:
    """What a step of B games did.

    Args:
        rewards: (B, agents) in the order of `Game.everyone`.
        terminated: (B,) which games have come to an end of their own.
        truncated: (B,) which have run out of steps.
        ticks: The steps of the env below its wrappers, one after the other; None where there is nothing between, and
            the step is the env's own in all games.
        numbers: All numbers that went in and came out, as an error should call them.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ticks: Sequence[Tick] | None
    numbers: Mapping[str, Any]


class World(Protocol):
    """B running games of one `Game`.

    Attributes:
        num_games: B.
        can_be_kept: Whether games under way go on from a pickle as they would have.
    """

    num_games: int
    can_be_kept: bool

    def reset(self, games: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Starts the episodes of some games, each with its seed; None goes on with its random stream."""
        ...

    def step(self, actions: Arrays, running: np.ndarray) -> Played:
        """Plays a step of the games that run: actions (B, ...) by agent, and which games do (B,)."""
        ...

    def show(self) -> Seen:
        """What the games show now."""
        ...
