"""Who moves the agents in an evaluation: a trained team, or a script to measure it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rllib_tag.names import BASELINES, GOOD_POLICY
from rllib_tag.playing.disturbances import Disturbance
from rllib_tag.playing.games import Games, rows_of
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.world.behaviours import chase_actions, random_actions
from rllib_tag.world.roster import CLASS_A

# Games, and one random stream for each, so that an episode depends on its seed alone: actions (B, ...) by agent.
Controller = Callable[[Games, Sequence[np.random.Generator]], dict[str, np.ndarray]]

# Whether class A chases, whether class B chases; who does not acts at random.
CHASING = dict(zip(BASELINES, ((False, False), (False, True), (True, True)), strict=True))


def team_controller(
    team: TrainedTeam, classes: Sequence[str], deterministic: bool = True, disturbance: Disturbance | None = None
) -> Controller:
    """Moves the agents of some classes by a trained team, one forward a policy and class for all games.

    Args:
        team: The trained team.
        classes: Whom to move: `class_a`, `class_b`, `good`.
        deterministic: Whether to take the likeliest actions. Default: True.
        disturbance: What happens to messages on their way. Default: nothing.
    """

    def act(games: Games, rngs: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for name in classes:
            agents = games.config.roster.members(name)
            rows = games.rows(name)
            if disturbance is not None and name != GOOD_POLICY:
                rows = disturbance.apply(name, rows, games)
            for policy, places in team.parts(games.config.roster, name):
                noise = None if deterministic else [rng for rng in rngs for _ in places]
                chosen = team.actions(policy, rows_of(rows, places, len(agents)), games.layout, noise)
                chosen = chosen.reshape(len(games.seeds), len(places), *chosen.shape[1:])
                out |= {agents[place]: chosen[:, i] for i, place in enumerate(places)}
        return out

    return act


def scripted_controller(name: str) -> Controller:
    """Moves the adversaries by one of the `BASELINES`."""
    chases_a, chases_b = CHASING[name]

    def act(games: Games, rngs: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
        roster, continuous = games.config.roster, games.config.continuous_actions
        x, position, velocity = roster.num_adversaries, games.positions, games.velocities
        chase = chase_actions(position[:, :x], velocity[:, :x], position[:, x:], velocity[:, x:], continuous)
        wander = np.stack([random_actions(rng, (x,), continuous) for rng in rngs])
        chases = np.where(roster.classes == CLASS_A, chases_a, chases_b)
        actions = np.where(chases[:, None] if continuous else chases, chase, wander)
        return {agent: actions[:, i] for i, agent in enumerate(roster.adversaries)}

    return act


def with_prey(adversaries: Controller, team: TrainedTeam, deterministic: bool = True) -> Controller:
    """Joins a controller of the adversaries with the trained prey of a team."""
    prey = team_controller(team, [GOOD_POLICY], deterministic)
    return lambda games, rngs: {**adversaries(games, rngs), **prey(games, rngs)}
