"""Controllers that move the agents in an evaluation: trained teams and scripted baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import gymnasium as gym
import numpy as np

from rllib_tag.errors import check_choice
from rllib_tag.names import BASELINES, RANDOM
from rllib_tag.playing.channel import Channel
from rllib_tag.playing.games import Games, Rows, rows_of
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.plugin.env_config import EnvConfig, TagEnvConfig
from rllib_tag.world.behaviours import chase_actions, random_actions
from rllib_tag.world.roster import CLASS_A
from rllib_tag.world.streams import ACTIONS

# From games, and a random stream for each so that an episode depends on its seed alone, to actions (B, ...) by agent.
Controller = Callable[[Games, Sequence[np.random.Generator]], dict[str, np.ndarray]]

# Whether class A chases, and whether class B does; a class that does not acts at random.
CHASING = dict(zip(BASELINES, ((False, False), (False, True), (True, True)), strict=True))


def class_parts(
    team: TrainedTeam, name: str, games: Games, channel: Channel | None = None
) -> Iterator[tuple[str, list[int], Rows]]:
    """Yields each policy that moves members of a class, with their places and what they observe.

    Args:
        team: The trained team.
        name: The class, such as `class_a` or `good`.
        games: The games.
        channel: What happens to messages on their way. Default: nothing.
    """
    game = games.config.game
    members = game.members(name)
    rows = games.rows(name) if members else {}
    if channel is not None and members and name in game.classes:
        rows = channel.apply(name, rows, games)
    for policy, places in team.parts(game, name):
        yield policy, places, rows_of(rows, places, len(members))


def team_controller(
    team: TrainedTeam, classes: Sequence[str], deterministic: bool = True, channel: Channel | None = None
) -> Controller:
    """Returns a controller that moves some classes by a trained team, with one forward pass per policy and class.

    Args:
        team: The trained team.
        classes: The classes to move, such as `class_a`, `class_b`, `good`.
        deterministic: Whether to take the most likely actions. Default: True.
        channel: What happens to messages on their way. Default: nothing.
    """

    def act(games: Games, rngs: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for name in classes:
            agents = games.config.game.members(name)
            for policy, places, rows in class_parts(team, name, games, channel):
                noise = None if deterministic else [rng for rng in rngs for _ in places]
                chosen = team.actions(policy, rows, noise, games.layout)
                chosen = chosen.reshape(len(games.seeds), len(places), *chosen.shape[1:])
                out |= {agents[place]: chosen[:, i] for i, place in enumerate(places)}
        return out

    return act


def baselines_of(config: EnvConfig) -> list[str]:
    """Returns the `BASELINES` that there are for a game."""
    return list(BASELINES) if isinstance(config, TagEnvConfig) else [RANDOM]


def scripted_controller(name: str, config: EnvConfig) -> Controller:
    """Returns the controller of one of the `BASELINES`. Those that chase exist only for tag.

    Raises:
        ConfigError: If there is no such baseline for the game.
    """
    check_choice("baseline", name, baselines_of(config))
    return partial(_chase, config, *CHASING[name]) if isinstance(config, TagEnvConfig) else _wander


def _chase(
    config: TagEnvConfig, chases_a: bool, chases_b: bool, games: Games, rngs: Sequence[np.random.Generator]
) -> dict[str, np.ndarray]:
    roster, continuous = config.roster, config.continuous_actions
    x, position, velocity = roster.num_adversaries, games.positions, games.velocities
    chase = chase_actions(position[:, :x], velocity[:, :x], position[:, x:], velocity[:, x:], continuous)
    wander = np.stack([random_actions(rng, (x,), continuous) for rng in rngs])
    chases = np.where(roster.classes == CLASS_A, chases_a, chases_b)
    actions = np.where(chases[:, None] if continuous else chases, chase, wander)
    return {agent: actions[:, i] for i, agent in enumerate(roster.adversaries)}


def _wander(games: Games, rngs: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
    out = {}
    for agent, space in games.config.game.action_spaces.items():
        if isinstance(space, gym.spaces.Discrete):
            out[agent] = np.array([rng.integers(space.n) for rng in rngs])
        else:
            out[agent] = np.stack([rng.random(space.shape, dtype=np.float32) for rng in rngs])
    return out


def with_others(team: Controller, trained: TrainedTeam, config: EnvConfig, deterministic: bool = True) -> Controller:
    """Returns a team's controller joined with the trained policies of the other agents, if those learn."""
    if not config.game.others_learn:
        return team
    others = team_controller(trained, list(config.game.others), deterministic)
    return lambda games, rngs: {**team(games, rngs), **others(games, rngs)}


def play(
    config: EnvConfig,
    controller: Controller,
    seeds: Sequence[int],
    watch: Callable[[Games], None] | None = None,
) -> Games:
    """Plays one episode per seed, side by side, to the end.

    Args:
        config: The game.
        controller: Who acts.
        seeds: One per game.
        watch: Called with the games before each step. Default: nothing.
    """
    games = Games(config, seeds)
    rngs = [np.random.default_rng([seed, ACTIONS]) for seed in seeds]
    while not all(games.stats):
        if watch:
            watch(games)
        games.step(controller(games, rngs))
    return games
