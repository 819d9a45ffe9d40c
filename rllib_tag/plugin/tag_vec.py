"""TagEnv's game for many environments at once, on the batched simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from rllib_tag.errors import ConfigError
from rllib_tag.names import GOOD_POLICIES
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.episode_stats import EpisodeStats
from rllib_tag.plugin.finite import check_finite
from rllib_tag.plugin.observer import Arrays, observe_good, potentials, team_state
from rllib_tag.plugin.prey import load_frozen_prey
from rllib_tag.world.behaviours import evasive_actions, random_actions
from rllib_tag.world.simulator import SimpleTagVec


@dataclasses.dataclass(frozen=True)
class TeamView:
    """What B games show at one step.

    Args:
        adversaries: What `team_state` gives, with a leading (B,).
        good: What learning good agents observe, (B, y, ...) by key; nothing where they do not learn.
        steps: Steps since the reset, the same in all games; 0 right after it.
    """

    adversaries: Arrays
    good: Arrays
    steps: int


@dataclasses.dataclass(frozen=True)
class VecStep:
    """What one step of B games gave.

    Args:
        rewards: (B, agents) what the acting agents are paid, shaping included.
        final: Where the episodes ended, their last view; else None.
        stats: Where the episodes ended, their B figures; else nothing.
    """

    rewards: np.ndarray
    final: TeamView | None
    stats: list[dict[str, float]]


def mpe2_needed(config: TagEnvConfig) -> str | None:
    """What in a game's config only mpe2 can do; None if nothing."""
    if config.backend == "mpe2":
        return "backend: mpe2"
    if config.wrappers:
        return "wrappers"
    if config.terminate_on_success:
        return "terminate_on_success"
    return f"render_mode: {config.render_mode}" if config.render_mode else None


class TagVec:
    """B games of `TagEnv` in lockstep: the same observations, rewards and episodes for the same seeds and actions.

    Args:
        config: The game.
        num_envs: B.

    Attributes:
        agents: Those that act by a policy, in `TagEnv`'s order.
        view: What the games show now.

    Raises:
        ConfigError: If the game needs mpe2.
    """

    def __init__(self, config: TagEnvConfig, num_envs: int) -> None:
        if mpe2_needed(config) is not None:
            raise ConfigError(
                f"env_config: expected a game that can be played on arrays, got {mpe2_needed(config)}. "
                "Remove it, or train with run: PPO by plain RLlib."
            )
        self.config, self.num_envs, roster = config, num_envs, config.roster
        self._world = SimpleTagVec(
            num_envs, config.num_good, roster.num_adversaries, config.num_obstacles, config.max_cycles,
            config.continuous_actions,
        )  # fmt: skip
        self._learned = config.good_policy == "learned"
        self.agents = [*roster.adversaries, *(roster.good_agents if self._learned else ())]
        self._everyone = [*roster.adversaries, *roster.good_agents]
        self._stats = EpisodeStats(roster, config.max_cycles, (num_envs,))
        self._frozen_prey = None
        if config.good_policy not in GOOD_POLICIES:
            self._frozen_prey = load_frozen_prey(config.good_policy, config.continuous_actions)
        self._prey_rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._potential = np.zeros((num_envs, roster.num_adversaries))
        self.reset()

    @property
    def positions(self) -> np.ndarray:
        """True positions (B, agents, 2) in world units, adversaries first."""
        return self._world.positions

    @property
    def velocities(self) -> np.ndarray:
        """True velocities (B, agents, 2) in world units a second."""
        return self._world.velocities

    def reset(self, seeds: Sequence[int | None] | None = None) -> None:
        """Starts all episodes; the same seeds as `TagEnv.reset` give the same episodes."""
        for i, seed in enumerate(seeds or ()):
            if seed is not None:
                self._prey_rngs[i] = np.random.default_rng([seed, 1])
        self._world.reset(seeds)
        self._begin()

    def step(self, actions: Mapping[str, np.ndarray]) -> VecStep:
        """Plays one step of all games; ended episodes start anew.

        Args:
            actions: (B,) integers or (B, 5) numbers for every agent in `agents`.
        """
        config, x = self.config, self.config.roster.num_adversaries
        paid, ended = self._world.advance({**actions, **self._prey_actions()})
        own = np.stack([paid[agent] for agent in self._everyone], axis=1)  # (B, N + y)
        self._look()
        self._stats.step(own, self._world.positions, self.view.adversaries["links"])
        check_finite("TagVec.step", {"rewards": own, "team": self.view.adversaries["team"]})
        rewards = own[:, : len(self.agents)].copy()
        if config.shaping:
            before, self._potential = self._potential, potentials(self._world.positions, x)
            rewards[:, :x] += config.shaping * (config.shaping_gamma * self._potential - before)
        if not ended.all():
            return VecStep(rewards, None, [])
        result = VecStep(rewards, self.view, [self._stats.summary(i) for i in range(self.num_envs)])
        self._world.restart(np.arange(self.num_envs))
        self._begin()
        return result

    def _begin(self) -> None:
        """Episodes that all begin now."""
        config = self.config
        self._stats.restart(np.arange(self.num_envs))
        if config.shaping:
            self._potential = potentials(self._world.positions, config.roster.num_adversaries)
        self._look()

    def _look(self) -> None:
        world = self._world
        adversaries, good = world.observe_all()
        self.view = TeamView(
            team_state(self.config, adversaries.swapaxes(0, 1), world.positions, world.velocities, world.landmarks),
            {} if self.config.good_policy in ("random", "evasive") else observe_good(self.config, good.swapaxes(0, 1)),
            int(world.steps[0]),
        )

    def _prey_actions(self) -> Arrays:
        config, names = self.config, self.config.roster.good_agents
        if self._learned:
            return {}
        x, world = config.roster.num_adversaries, self._world
        if self._frozen_prey is not None:
            seen = {key: value.reshape(-1, *value.shape[2:]) for key, value in self.view.good.items()}
            chosen = self._frozen_prey(seen)
            chosen = chosen.reshape(self.num_envs, len(names), *chosen.shape[1:])
        elif config.good_policy == "evasive":
            chosen = evasive_actions(
                world.positions[:, x:], world.positions[:, :x], world.landmarks, config.continuous_actions
            )
        else:
            if self.view.steps == 0:  # all of an episode's draws at once: the same numbers as one draw a step
                shape = (config.max_cycles, config.num_good)
                draws = [random_actions(rng, shape, config.continuous_actions) for rng in self._prey_rngs]
                self._prey_plan = np.stack(draws, axis=1)  # (steps, B, y) or (steps, B, y, 5)
            chosen = self._prey_plan[self.view.steps]
        return {agent: chosen[:, i] for i, agent in enumerate(names)}
