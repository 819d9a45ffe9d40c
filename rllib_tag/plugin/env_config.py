"""The keys of `env_config`."""

from __future__ import annotations

import abc
import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from rllib_tag.errors import (
    ConfigError,
    check_bool,
    check_choice,
    check_int,
    check_number,
    dataclass_from_mapping,
    raised,
    under,
)
from rllib_tag.names import GAME, GOOD_POLICIES
from rllib_tag.plugin.class_paths import resolve_subclass
from rllib_tag.plugin.prey import load_frozen_prey, load_own_prey
from rllib_tag.plugin.wrappers import resolve_wrapper, wrap
from rllib_tag.world.game import Arrays, Game, World
from rllib_tag.world.pettingzoo_world import PettingZooWorld
from rllib_tag.world.roster import Mixture, Roster
from rllib_tag.world.tag import TagGame
from rllib_tag.world.team_games import TeamGames

RenderMode = Literal["human", "rgb_array"]
# Options of mpe2's `simple_tag_v3` that `env_config` does not accept, and why.
NOT_ACCEPTED = {
    "num_adversaries": "it is num_class_a + num_class_b. Set those instead",
    "curriculum": "mpe2 1.1 never leaves its first stage, in which prey has half its speed. Remove it",
    "num_agent_neighbors": "class views need MPE's full observations. Set comm_range to limit who is heard",
    "num_landmark_neighbors": "class views need MPE's full observations. Set num_obstacles instead",
    "dynamic_rescaling": "it only changes how the game is rendered. Remove it",
    "benchmark_data": "the episode metrics already count contacts. Remove it",
}
Backend = Literal["auto", "mpe2", "batched"]


@dataclasses.dataclass(frozen=True)
class EnvConfig(abc.ABC):
    """The keys of `env_config` that all games have.

    Args:
        comm_range: Euclidean range of links in world units; 0 = nobody hears anybody, infinity = everybody hears
            everybody. Of a list, such as `[0, 1]`, each episode draws one, so that a team learns to do without links.
            Default: 1.
        comm_hops: Links that information may cross in one step. Default: 2.
        history_length: T, the number of steps of the sender's own observations in a message. Default: 4.
        wrappers: SuperSuit or PettingZoo wrappers, as import paths or as mappings with `type` and arguments,
            applied to the PettingZoo env in order. Default: none.
        shaping: Weight of the potential-based shaping of the team's rewards. Default: 0.
        shaping_gamma: Discount of the shaping; use that of the training. Default: 0.99.
        backend: What runs the games of `rllib train` and `rllib evaluate`: `mpe2`, one game after another; `batched`,
            all games of a runner at once; `auto`, `batched` unless something else in the config, such as wrappers,
            needs `mpe2`. A `TagEnv` on its own or in another RLlib process always runs one game after another.
            Default: `auto`.
        render_mode: `human`, `rgb_array` or None. Default: None.

    Raises:
        ConfigError: If a value is invalid.
    """

    comm_range: float | tuple[float, ...] = 1.0
    comm_hops: int = 2
    history_length: int = 4
    wrappers: tuple[Any, ...] = ()
    shaping: float = 0.0
    shaping_gamma: float = 0.99
    backend: Backend = "auto"
    render_mode: RenderMode | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "comm_range", _range_or_choices(self.comm_range))
        check_int("comm_hops", self.comm_hops, 0)
        check_int("history_length", self.history_length, 1)
        check_number("shaping", self.shaping, 0)
        if math.isinf(self.shaping):
            raise ConfigError("shaping: expected a finite number, got infinity. Set one.")
        check_number("shaping_gamma", self.shaping_gamma, 0, 1)
        check_choice("backend", self.backend, get_args(Backend))
        check_choice("render_mode", self.render_mode, (None, *get_args(RenderMode)))
        if isinstance(self.wrappers, (str, Mapping)) or not isinstance(self.wrappers, (list, tuple)):
            raise ConfigError(f"wrappers: expected a list, got {self.wrappers!r}. Write them in brackets.")
        object.__setattr__(self, "wrappers", tuple(self.wrappers))
        for entry in self.wrappers:
            resolve_wrapper(entry)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> EnvConfig:
        """Builds it from a mapping such as parsed YAML; the error for an unknown key names the nearest known one."""
        return dataclass_from_mapping(cls, "env_config", mapping)

    def as_mapping(self) -> dict[str, Any]:
        """Returns all keys that `from_mapping` takes, with their values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    @abc.abstractmethod
    def game(self) -> Game:
        """The game."""

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies that act in this game: those of classes that have members, then those of others that learn."""
        present = tuple(name for name, agents in self.game.classes.items() if agents)
        return (*present, *self.game.others) if self.game.others_learn else present

    def check_actions(self, what: str, agents: Sequence[str], num_outputs: int, continuous: bool) -> None:
        """Checks that a network has the outputs that some agents' actions need.

        Args:
            what: Where the network comes from.
            agents: The agents that it controls.
            num_outputs: The number of its action-distribution inputs.
            continuous: Whether they are means and log-stds.

        Raises:
            ConfigError: If it has others.
        """
        for agent in agents:
            space = self.game.action_spaces[agent]
            needed = 2 * space.shape[0] if isinstance(space, gym.spaces.Box) else int(space.n)
            if (needed, isinstance(space, gym.spaces.Box)) != (num_outputs, continuous):
                kind = "continuous" if continuous else "discrete"
                raise ConfigError(
                    f"{what}: expected a game whose actions are {kind} with {num_outputs} outputs, as trained, got "
                    f"{space} for {agent}. Change the game."
                )

    @property
    def unbatched_reason(self) -> str | None:
        """Why all games of a runner cannot be run at once; None if they can."""
        if self.backend == "mpe2":
            return "backend: mpe2"
        if self.wrappers:
            return "wrappers"
        return f"render_mode: {self.render_mode}" if self.render_mode else None

    def world(self, num_games: int) -> PettingZooWorld:
        """Returns B games as wrapped PettingZoo envs."""
        return PettingZooWorld(self.game, num_games, lambda env: wrap(env, self.wrappers), self.render_mode)

    def batched_world(self, num_games: int) -> World:
        """Returns B games that run at once, on arrays if the game has such a version.

        Raises:
            ConfigError: If this config does not allow that.
        """
        if self.unbatched_reason is not None:
            raise ConfigError(
                f"env_config: expected a game that can be batched, got {self.unbatched_reason}. "
                "Remove it, or train with RLlib's default sampler."
            )
        return self.game.batched(num_games) or self.world(num_games)

    def games(self, world: World) -> TeamGames:
        """Returns the games of a world with communication, as configured."""
        return TeamGames(
            self.game, world, comm_range=self.comm_range, history_length=self.history_length, shaping=self.shaping,
            shaping_gamma=self.shaping_gamma,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CommEnvConfig(EnvConfig):
    """The keys of `env_config` for `CommEnv`: `game`, those of `EnvConfig`, and the game's constructor arguments.

    Args:
        path: The import path of a `Game`; its key is `game`.
        options: The arguments of its constructor. Default: none.

    Raises:
        ConfigError: If a value is invalid, or if the game cannot be built.
    """

    path: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = resolve_subclass("game", self.path, Game)
        try:
            inspect.signature(kind).bind(**self.options)
        except TypeError as error:
            keys = [field.name for field in dataclasses.fields(EnvConfig)]
            taken = ", ".join(inspect.signature(kind).parameters) or "none"
            raise ConfigError(
                f"expected {', '.join(keys)}, or the arguments of {self.path} ({taken}): {error}. Use these keys."
            ) from error
        try:
            _, spaces = self.game.layout, self.game.action_spaces
        except ConfigError:
            raise
        except Exception as error:  # a lab's game may raise anything
            raise ConfigError(
                f"game: expected one that can be played, got {raised(error)}. Correct the game."
            ) from error
        if self.game.others_learn:
            raise ConfigError(
                "game: expected agents outside the team to act by act_others, got others_learn = True, which only tag "
                "has. Make them a class of the team."
            )
        for agent, space in spaces.items():
            is_unit_box = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.is_bounded()
            if not isinstance(space, gym.spaces.Discrete) and not (
                is_unit_box and (space.low == 0).all() and (space.high == 1).all()
            ):
                raise ConfigError(
                    f"game: expected actions in Discrete(n) or Box(0, 1, (n,)), got {space} for {agent}. "
                    "Convert them by a wrapper in the game's parallel_env."
                )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> CommEnvConfig:
        """Builds it from a mapping such as parsed YAML."""
        if "game" not in mapping:
            raise ConfigError("env_config: expected game, the import path of a rllib_tag.Game, got none. Add it.")
        known = {field.name for field in dataclasses.fields(EnvConfig)}
        common = {key: value for key, value in mapping.items() if key in known}
        options = {key: value for key, value in mapping.items() if key not in known and key != "game"}
        with under("env_config"):
            return cls(**common, path=mapping["game"], options=options)

    def takes(self, key: str) -> bool:
        """Whether `from_mapping` takes a key with this game."""
        common = {field.name for field in dataclasses.fields(EnvConfig)}
        return key in common or key in inspect.signature(type(self.game)).parameters

    def as_mapping(self) -> dict[str, Any]:
        """Returns all keys that `from_mapping` takes, with their values."""
        common = {field.name: getattr(self, field.name) for field in dataclasses.fields(EnvConfig)}
        return {"game": self.path, **common, **self.options}

    @cached_property
    def game(self) -> Game:
        """The game."""
        return resolve_subclass("game", self.path, Game)(**self.options)


Number = int | tuple[int, ...]


def choices_of(number: Any) -> tuple[Any, ...]:
    """Returns the values that a key stands for: one, or those to draw from. It checks none."""
    return tuple(number) if isinstance(number, (list, tuple)) else (number,)


def _range_or_choices(value: Any) -> float | tuple[float, ...]:
    """Checks the range of links, or the ranges to draw from.

    Raises:
        ConfigError: If there is none, if one is repeated, or if one is negative or no number.
    """
    choices = tuple(math.inf if each == "inf" else each for each in choices_of(value))  # JSON has no infinity
    for each in choices:
        check_number("comm_range", each, 0)
    if not choices or len(set(choices)) < len(choices):
        raise ConfigError(
            f"comm_range: expected a number of at least 0, or a list of distinct ones to draw from, got {value!r}. "
            "Write a list such as [0, 1]."
        )
    return choices if len(choices) > 1 else choices[0]


def _number_or_choices(name: str, value: Any) -> Number:
    """Checks the number, or the numbers, of a key of a game's size.

    Raises:
        ConfigError: If there is none, if one is repeated, or if one is not an integer or is too small.
    """
    least, choices = 1 if name == "num_good" else 0, choices_of(value)
    if not isinstance(value, (list, tuple)):
        check_int(name, value, least)
    elif (
        not choices
        or any(isinstance(number, bool) or not isinstance(number, int) or number < least for number in choices)
        or len(set(choices)) < len(choices)
    ):
        raise ConfigError(
            f"{name}: expected an integer of at least {least}, or a list of distinct ones to draw from, got "
            f"{value!r}. Write a list such as [1, 2]."
        )
    return choices if len(choices) > 1 else choices[0]


@dataclasses.dataclass(frozen=True)
class TagEnvConfig(EnvConfig):
    """The keys of `env_config` for `TagEnv`: those of `EnvConfig`, and these.

    The four numbers may be lists, such as `num_good: [1, 2, 3]`. Then each episode draws a game (`Mixture`).

    Args:
        num_class_a: The number of adversaries that see the landmarks. Default: 2.
        num_class_b: The number of adversaries that see the good agents. Default: 2.
        num_good: The number of good agents, the prey. Default: 1.
        num_obstacles: The number of landmarks. Default: 2.
        max_cycles: The maximum number of steps per episode. Default: 100.
        continuous_actions: Whether actions are Box(0, 1, (5,)) instead of Discrete(5). Default: False.
        full_observation: Whether every adversary gets both class views. Default: False.
        good_policy: `random`, `evasive`, `learned` (by a third policy, `good`), a path to exported weights, or a script
            of your own: a mapping with the import path of a `Prey` under `type`, and its arguments. Default: `random`.
        terminate_on_success: Whether an episode ends as soon as all good agents are touched at the same time. Needs
            mpe2 to run the game. Default: False.

    Raises:
        ConfigError: If a value is invalid.
    """

    num_class_a: Number = 2
    num_class_b: Number = 2
    num_good: Number = 1
    num_obstacles: Number = 2
    max_cycles: int = 100
    continuous_actions: bool = False
    full_observation: bool = False
    good_policy: str | Mapping[str, Any] = "random"
    terminate_on_success: bool = False

    def __post_init__(self) -> None:
        for name in GAME:
            object.__setattr__(self, name, _number_or_choices(name, getattr(self, name)))
        self.roster  # noqa: B018  # checks the numbers of agents
        check_int("max_cycles", self.max_cycles, 1)
        check_bool("continuous_actions", self.continuous_actions)
        check_bool("full_observation", self.full_observation)
        super().__post_init__()
        check_bool("terminate_on_success", self.terminate_on_success)
        if isinstance(self.good_policy, Mapping):
            self.prey  # noqa: B018  # checks the script
            return
        if not isinstance(self.good_policy, str):
            raise ConfigError(
                f"good_policy: expected {', '.join(GOOD_POLICIES)}, a path or {{type: my_lab.Prey, …}}, got "
                f"{self.good_policy!r}. Choose one of these."
            )
        if self.good_policy not in GOOD_POLICIES and not os.path.isdir(self.good_policy):
            raise ConfigError(
                f"good_policy: expected one of {', '.join(GOOD_POLICIES)}, a folder that `rllib export` wrote or "
                f"{{type: my_lab.Prey, …}}, got {self.good_policy!r}. Choose one of these."
            )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> TagEnvConfig:
        """Builds it from a mapping such as parsed YAML; the error for an unknown key names the nearest known one."""
        for key in mapping:
            if key in NOT_ACCEPTED:
                raise ConfigError(f"env_config: expected no {key}, got {mapping[key]!r}: {NOT_ACCEPTED[key]}.")
        return dataclass_from_mapping(cls, "env_config", mapping)

    @cached_property
    def roster(self) -> Roster:
        """The agents and their classes, in the largest game."""
        return Roster(*(max(choices_of(getattr(self, field.name))) for field in dataclasses.fields(Roster)))

    @property
    def mixture(self) -> Mixture | None:
        """The games of which each episode draws one; None if all episodes are of one size."""
        numbers = {name: getattr(self, name) for name in GAME}
        if all(isinstance(number, int) for number in numbers.values()):
            return None
        return Mixture(**{name: choices_of(number) for name, number in numbers.items()})

    @cached_property
    def prey(self) -> Callable[[Arrays], np.ndarray] | None:
        """What moves the good agents, if it is exported weights or a script."""
        if isinstance(self.good_policy, Mapping):
            return load_own_prey(self.good_policy, self.continuous_actions)
        frozen = self.good_policy not in GOOD_POLICIES
        return load_frozen_prey(self.good_policy, self.continuous_actions) if frozen else None

    @cached_property
    def game(self) -> TagGame:
        """The game."""
        return TagGame(
            self.roster, max(choices_of(self.num_obstacles)), self.max_cycles, self.continuous_actions,
            self.full_observation, str(self.good_policy) if self.prey is None else None, self.terminate_on_success,
            self.prey, self.mixture,
        )  # fmt: skip

    def check_actions(self, what: str, agents: Sequence[str], num_outputs: int, continuous: bool) -> None:
        """Checks that a network has the outputs that some agents' actions need."""
        del agents, num_outputs
        if continuous != self.continuous_actions:
            raise ConfigError(
                f"{what}: continuous_actions: expected {str(continuous).lower()} as trained, got "
                f"{str(self.continuous_actions).lower()}. Leave it out, or use another checkpoint."
            )

    @property
    def unbatched_reason(self) -> str | None:
        """Why all games of a runner cannot be run at once; None if they can."""
        return super().unbatched_reason or ("terminate_on_success" if self.terminate_on_success else None)


def read_env_config(mapping: Mapping[str, Any]) -> EnvConfig:
    """Reads an `env_config`: that of the game that it names, or else that of tag."""
    return (CommEnvConfig if "game" in mapping else TagEnvConfig).from_mapping(mapping)


def groups_of(env_config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the class of each agent that a policy controls. For tag, only the counts have to be valid."""
    if "game" in env_config:
        game = read_env_config(env_config).game
        return {agent: game.group_of[agent] for agent in game.acting}
    given = [field.name for field in dataclasses.fields(Roster)]
    counts = {field.name: field.default for field in dataclasses.fields(TagEnvConfig) if field.name in given}
    largest = {name: max(choices_of(env_config.get(name, default))) for name, default in counts.items()}
    roster = Roster(**largest)
    acting = (*roster.adversaries, *(roster.good_agents if env_config.get("good_policy") == "learned" else ()))
    return {agent: roster.group_of[agent] for agent in acting}


def agents_per_step(env_config: Mapping[str, Any]) -> float:
    """Returns how many agents act in an env step, on average over the games that are drawn."""
    game = read_env_config(env_config).game
    mixture = getattr(game, "mixture", None)
    if mixture is None:
        return len(game.acting)
    team = fmean(map(sum, mixture.teams))
    return team + fmean(mixture.num_good) if game.others_learn else team
