"""Who moves the agents in an evaluation: a trained team, or a script to measure it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rllib_tag.plugin.env import Observations, TagEnv
from rllib_tag.runs.restore import TrainedTeam
from rllib_tag.world.behaviours import chase_actions, random_actions
from rllib_tag.world.roster import CLASS_A, GOOD_POLICY

Actions = list[dict[str, np.ndarray]]
Controller = Callable[[Sequence[TagEnv], Sequence[Observations]], Actions]


def team_controller(team: TrainedTeam, policies: Sequence[str], generator: torch.Generator | None = None) -> Controller:
    """Moves the agents of some policies by a trained team, one forward a policy for all environments.

    Args:
        team: The trained team.
        policies: Which policies to move.
        generator: Samples actions with it; None takes the likeliest ones.
    """

    def act(envs: Sequence[TagEnv], observations: Sequence[Observations]) -> Actions:
        out: Actions = [{} for _ in envs]
        for policy in policies:
            agents = envs[0].roster.members(policy)
            rows = [obs[agent] for obs in observations for agent in agents]
            actions = team.actions(policy, rows, generator)
            for i, action in enumerate(actions):
                out[i // len(agents)][agents[i % len(agents)]] = action
        return out

    return act


def scripted_controller(name: str, seed: int) -> Controller:
    """Moves the adversaries by a script.

    Args:
        name: One of `YARDSTICKS`.
        seed: Of the random actions.
    """
    chases_a, chases_b = YARDSTICKS[name]
    rng = np.random.default_rng(seed)

    def act(envs: Sequence[TagEnv], observations: Sequence[Observations]) -> Actions:
        del observations
        out: Actions = []
        for env in envs:
            x, continuous = env.roster.num_adversaries, env.config.continuous_actions
            position, velocity = env.positions, env.velocities
            chase = chase_actions(position[:x], velocity[:x], position[x:], velocity[x:], continuous)
            wander = random_actions(rng, (x,), continuous)
            chases = np.where(env.roster.classes == CLASS_A, chases_a, chases_b)
            actions = np.where(chases[:, None] if continuous else chases, chase, wander)
            out.append(dict(zip(env.roster.adversaries, actions, strict=True)))
        return out

    return act


# By name: whether class A chases, whether class B chases; who does not acts at random.
YARDSTICKS = {
    "random": (False, False),
    "class_b_chases": (False, True),
    "all_chase": (True, True),
}


def with_prey(adversaries: Controller, team: TrainedTeam, generator: torch.Generator | None = None) -> Controller:
    """Joins a controller of the adversaries with the trained prey of a team."""
    prey = team_controller(team, [GOOD_POLICY], generator)

    def act(envs: Sequence[TagEnv], observations: Sequence[Observations]) -> Actions:
        both = zip(adversaries(envs, observations), prey(envs, observations), strict=True)
        return [{**ours, **theirs} for ours, theirs in both]

    return act
