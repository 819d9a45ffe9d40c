"""Who moves the agents in an evaluation: a trained team, or a script to measure it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rllib_tag.plugin.env import Observations, TagEnv
from rllib_tag.runs.restore import TrainedTeam
from rllib_tag.world.behaviours import chase_actions, random_actions
from rllib_tag.world.roster import CLASS_A, GOOD_POLICY

Actions = list[dict[str, np.ndarray]]
# Environments, their observations, and one random stream for each, so that an episode depends on its seed alone.
Controller = Callable[[Sequence[TagEnv], Sequence[Observations], Sequence[np.random.Generator]], Actions]

# By name: whether class A chases, whether class B chases; who does not acts at random.
YARDSTICKS = {
    "random": (False, False),
    "class_b_chases": (False, True),
    "all_chase": (True, True),
}


def team_controller(team: TrainedTeam, policies: Sequence[str], deterministic: bool = True) -> Controller:
    """Moves the agents of some policies by a trained team, one forward a policy for all environments.

    Args:
        team: The trained team.
        policies: Which policies to move.
        deterministic: Whether to take the likeliest actions. Default: True.
    """

    def act(
        envs: Sequence[TagEnv], observations: Sequence[Observations], rngs: Sequence[np.random.Generator]
    ) -> Actions:
        out: Actions = [{} for _ in envs]
        for policy in policies:
            agents = envs[0].roster.members(policy)
            rows = [obs[agent] for obs in observations for agent in agents]
            noise = None if deterministic else [rng for rng in rngs for _ in agents]
            for i, action in enumerate(team.actions(policy, rows, noise)):
                out[i // len(agents)][agents[i % len(agents)]] = action
        return out

    return act


def scripted_controller(name: str) -> Controller:
    """Moves the adversaries by one of the `YARDSTICKS`."""
    chases_a, chases_b = YARDSTICKS[name]

    def act(
        envs: Sequence[TagEnv], observations: Sequence[Observations], rngs: Sequence[np.random.Generator]
    ) -> Actions:
        del observations
        out: Actions = []
        for env, rng in zip(envs, rngs, strict=True):
            x, continuous = env.roster.num_adversaries, env.config.continuous_actions
            position, velocity = env.positions, env.velocities
            chase = chase_actions(position[:x], velocity[:x], position[x:], velocity[x:], continuous)
            wander = random_actions(rng, (x,), continuous)
            chases = np.where(env.roster.classes == CLASS_A, chases_a, chases_b)
            actions = np.where(chases[:, None] if continuous else chases, chase, wander)
            out.append(dict(zip(env.roster.adversaries, actions, strict=True)))
        return out

    return act


def with_prey(adversaries: Controller, team: TrainedTeam, deterministic: bool = True) -> Controller:
    """Joins a controller of the adversaries with the trained prey of a team."""
    prey = team_controller(team, [GOOD_POLICY], deterministic)

    def act(
        envs: Sequence[TagEnv], observations: Sequence[Observations], rngs: Sequence[np.random.Generator]
    ) -> Actions:
        both = zip(adversaries(envs, observations, rngs), prey(envs, observations, rngs), strict=True)
        return [{**ours, **theirs} for ours, theirs in both]

    return act
