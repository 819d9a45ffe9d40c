"""The interface of a game, which a lab implements to add its own, and of a world, which runs many games at once."""

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
    """The observations and the true world state of B games at one step.

    Args:
        observations: The PettingZoo env's own observations, (B, n, ...) by class, or by group for other agents.
        facts: The true world state as `Game.facts` returns it, (B, ...) by name.
    """

    observations: Mapping[str, Any]
    facts: Arrays


class Game(abc.ABC):
    """A game, as the encoder, the sampler, the commands and the reports see it.

    A lab writes a subclass that defines which PettingZoo env is played, which agents learn, which class each of them
    belongs to, and what each class sees. Arrays of several games have extra leading axes, so methods must index from
    the end: `x[..., :2]`.

    Attributes:
        classes: The agents that learn and communicate, by class. The policy of a class has the name of the class. The
            agents of the team are in this order.
        max_cycles: The maximum number of steps per episode.
        fixed_length: Whether every episode has `max_cycles` steps. Default: True.
        team_name: The name of the team in metrics. Default: `team`.
        others_learn: Whether the agents outside the team act by policies, too, one policy per group. Default: False.

    Examples:
        >>> from rllib_tag.games import Spread
        >>> game = Spread(num_scouts=1, num_workers=2)
        >>> game.team
        ('agent_0', 'agent_1', 'agent_2')
        >>> game.layout.senses.kinds  # size of an entity of each kind
        {'landmarks': 2}
    """

    classes: Mapping[str, Sequence[str]]
    max_cycles: int
    fixed_length = True
    team_name = "team"
    others_learn = False

    @abc.abstractmethod
    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """Creates a new PettingZoo env of this game."""

    @abc.abstractmethod
    def facts(self, env: ParallelEnv) -> Arrays:
        """Returns the true world state of a running env: all arrays, by name, that the other methods need.

        Args:
            env: The env that `parallel_env` created; if it has wrappers, PettingZoo's `unwrapped` env.
        """

    @abc.abstractmethod
    def see(self, name: str, observation: Any, facts: Arrays) -> ClassView:
        """Returns what the agents of a class see.

        Args:
            name: The name of the class.
            observation: (..., n, ...) the env's observations of its n agents.
            facts: The true world state as `facts` returns it, with the same leading axes.
        """

    @abc.abstractmethod
    def positions(self, facts: Arrays) -> np.ndarray:
        """Returns the positions of the team, (..., N, 2), which determine who is in range of whom."""

    @abc.abstractmethod
    def state(self, facts: Arrays) -> Arrays:
        """Returns the critics' state: (..., K, D) by kind of entity, where each entity begins with its position.

        `team` must be one of the kinds, (..., N, D) in the team's order; `TeamGames` appends each agent's class.
        """

    def act_others(self, seen: Seen, streams: Streams) -> Arrays:
        """Returns the actions of the agents that do not learn, (B, ...) by name. Default: none, all agents learn.

        Args:
            seen: The current observations and state of the games.
            streams: One random stream per game.
        """
        return {}

    def observe_others(self, seen: Seen) -> Arrays:
        """Returns what the agents outside the team observe if they learn, (B, n, ...) by key. Default: nothing."""
        return {}

    def present(self, facts: Arrays) -> Arrays:
        """Returns which agents and entities take part in a game, if that varies from game to game.

        Args:
            facts: The true world state.

        Returns:
            Booleans (..., K) by kind of the critics' state, and by group of others that learn. Of entities that a
            class sees, the first ones must be there. Default: nothing, all take part.
        """
        return {}

    def potential(self, facts: Arrays) -> np.ndarray:
        """Returns the potential for reward shaping, (..., N).

        Raises:
            NotImplementedError: If the game has none.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.potential: expected an implementation, got none. Implement it, or set shaping: 0."
        )

    def measure(self, facts: Arrays) -> Arrays:
        """Returns what to count in each step besides rewards and links, (...) by name. Default: nothing."""
        return {}

    def metrics(self, sums: Mapping[str, float], firsts: Mapping[str, float]) -> dict[str, float]:
        """Returns the game's own metrics of one episode. Default: the sums.

        Args:
            sums: The sum over the episode of each value that `measure` returned, by name.
            firsts: The first step, counted from 1, in which each value was above 0; 0 if there was none.
        """
        return dict(sums)

    def batched(self, num_games: int) -> World | None:
        """Returns B games that run on arrays and equal those of the env. Default: None, there is no such version."""
        return None

    @property
    def others(self) -> Mapping[str, Sequence[str]]:
        """The agents outside the team, by group. Default: none."""
        return {}

    @cached_property
    def team(self) -> tuple[str, ...]:
        """The N agents that learn and communicate, class by class."""
        return tuple(agent for agents in self.classes.values() for agent in agents)

    @cached_property
    def everyone(self) -> tuple[str, ...]:
        """All agents: the team, then the others."""
        return (*self.team, *(agent for agents in self.others.values() for agent in agents))

    @property
    def acting(self) -> tuple[str, ...]:
        """The agents that act by a policy: the team, then the others if they learn."""
        return self.everyone if self.others_learn else self.team

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The class of each team member, and the group of each other agent."""
        return {agent: group for group, agents in (*self.classes.items(), *self.others.items()) for agent in agents}

    def members(self, group: str) -> tuple[str, ...]:
        """Returns the agents of a class, or of a group of other agents."""
        return tuple({**self.classes, **self.others}[group])

    @cached_property
    def class_of(self) -> np.ndarray:
        """The class index of each team member: (N,) integers."""
        return np.repeat(np.arange(len(self.classes)), [len(agents) for agents in self.classes.values()])

    @cached_property
    def layout(self) -> MessageLayout:
        """The layout of this game's messages, inferred from the first step of an env.

        Raises:
            ValueError: If the parts of the game are inconsistent.
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
                    f"{type(self).__name__}.see, {name}: expected own numbers of shape (agents, 2 or more) that begin "
                    f"with a position, got shape {np.shape(view.own)}."
                )
            for kind, entities in view.entities.items():
                if np.ndim(entities) != 3 or np.shape(entities)[2] < 2:
                    raise ValueError(
                        f"{type(self).__name__}.see, {name}: expected {kind} of shape (agents, entities, 2 or more), "
                        f"each of which begins with a position, got shape {np.shape(entities)}."
                    )
        if np.shape(self.positions(facts)) != (len(self.team), 2):
            raise ValueError(
                f"{type(self).__name__}.positions: expected shape {(len(self.team), 2)}, got "
                f"{np.shape(self.positions(facts))}."
            )
        state = self.state(facts)
        if "team" not in state:
            raise ValueError(
                f"{type(self).__name__}.state: expected the kind 'team', got {', '.join(state) or 'none'}."
            )
        kinds: dict[str, tuple[int, int]] = {}
        for name, view in views.items():
            for kind, entities in view.entities.items():
                if kinds.setdefault(kind, entities.shape[-2:]) != entities.shape[-2:]:
                    raise ValueError(
                        f"{type(self).__name__}.see, {name}: expected {kind} (entities, numbers) of shape "
                        f"{kinds[kind]} as another class sees them, got {entities.shape[-2:]}. Use another kind."
                    )
        senses = Senses(
            tuple(self.classes),
            tuple(view.own.shape[-1] for view in views.values()),
            {kind: dim for kind, (_, dim) in kinds.items()},
            {kind: values.shape[-1] for kind, values in state.items()},
        )
        return MessageLayout(
            senses,
            {kind: count for kind, (count, _) in kinds.items()},
            tuple(tuple(view.entities) for view in views.values()),
            tuple(len(agents) for agents in self.classes.values()),
            varies=bool(self.present(facts)) or any(view.present for view in views.values()),
        )

    @property
    def action_spaces(self) -> Mapping[str, gym.Space]:
        """The action space of each team member."""
        return {agent: self._first_look[2][agent] for agent in self.team}

    @cached_property
    def _first_look(self) -> tuple[Mapping[str, Any], Arrays, Mapping[str, gym.Space]]:
        """The observations and the true state after the first reset of an env, and every agent's action space."""
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
                raise ValueError(f"{name}.classes: expected at least one agent per class, got none in {group!r}.")
        if sorted(self.everyone) != sorted(possible):
            raise ValueError(
                f"{name}: expected each agent of the env ({', '.join(possible)}) exactly once in classes or others, "
                f"got {', '.join(self.everyone) or 'none'}."
            )


@dataclasses.dataclass(frozen=True)
class Tick:
    """The outcome, in some games, of one step of the env itself, inside its wrappers.

    Args:
        games: The indices of these games.
        rewards: (games, agents) the env's own rewards, in the order of `Game.everyone`.
        facts: (games, ...) by name, after the step.
    """

    games: np.ndarray
    rewards: np.ndarray
    facts: Arrays


@dataclasses.dataclass(frozen=True)
class Played:
    """The outcome of one step of B games.

    Args:
        rewards: (B, agents) in the order of `Game.everyone`.
        terminated: (B,) which games have terminated.
        truncated: (B,) which games have been truncated.
        ticks: The steps of the env itself, inside its wrappers, in order; None if this step is also the env's own step
            in all games.
        numbers: All numbers that went in and came out, under the names that an error message should use.
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
        can_be_saved: Whether unpickled games continue exactly as the pickled ones would have.
    """

    num_games: int
    can_be_saved: bool

    def reset(self, games: Sequence[int], seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> None:
        """Starts new episodes in some games, each with its seed; with None, a game continues its random stream.

        `options` are those of PettingZoo's `reset`; a world without PettingZoo envs has none to take.
        """
        ...

    def step(self, actions: Arrays, running: np.ndarray) -> Played:
        """Steps the running games, given the actions (B, ...) by agent and which games are running (B,)."""
        ...

    def show(self) -> Seen:
        """Returns the current observations and state of the games."""
        ...
