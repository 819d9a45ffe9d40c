"""MPE `simple_tag_v3` as an RLlib multi-agent environment in which adversaries talk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from mpe2 import simple_tag_v3
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_tag.errors import ConfigError
from rllib_tag.names import GOOD_POLICIES
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.episode_stats import EpisodeStats
from rllib_tag.plugin.finite import check_finite
from rllib_tag.plugin.observer import Observer, adversary_space, good_space, observe_good, potentials
from rllib_tag.plugin.prey import load_frozen_prey
from rllib_tag.plugin.recorder import StatsRecorder
from rllib_tag.plugin.wrappers import wrap
from rllib_tag.world.behaviours import evasive_actions, random_actions

STATS_KEY = "episode_stats"
Observations = dict[str, dict[str, np.ndarray]]


class TagEnv(MultiAgentEnv):
    """Class A and class B adversaries hunt good agents and hear who is in range.

    An adversary's observation is a dict of float32 arrays, for N adversaries, histories of T steps,
    messages of F = 8 + 2z + 4y numbers, y good agents and z landmarks:

    | key | shape | what |
    | --- | --- | --- |
    | `messages` | (N, T, F) | the messages that arrived, oldest step first, zero where none did |
    | `message_mask` | (N, T) | 1 where a message's step exists and arrived |
    | `links` | (N, N) | links between adversaries whose messages arrived |
    | `self` | (N,) | one-hot, which of the N the receiver is |
    | `team` | (N, 6) | critic only: true position, velocity and class one-hot of every adversary |
    | `good` | (y, 4) | critic only: true position and velocity of every good agent |
    | `landmarks` | (z, 2) | critic only: true positions; no such key when z is 0 |

    A learning good agent's: `own` (4,), `adversaries` (x, 2), `good` (y - 1, 4) if y > 1, `landmarks` (z, 2)
    if z > 0, in absolute coordinates.

    Links and the critic's state come from the true world, class views from the (wrapped) raw observations, and
    the episode's statistics from MPE's own steps below the wrappers. Episodes end by truncation after
    `max_cycles` of these, or by termination before with `terminate_on_success`.

    Args:
        config: The keys of `TagEnvConfig` as one mapping (`register_env` gives a dict).
        **kwargs: The same keys as keywords (an env given by class path gets keywords).

    Attributes:
        config: The `TagEnvConfig`.
        roster: Who is who.
        par_env: The wrapped PettingZoo parallel env; `par_env.unwrapped.world` is MPE's true state.
        positions: (N + y, 2) true positions in world units, adversaries first.
        velocities: (N + y, 2) true velocities in world units a second.
        landmark_positions: (z, 2) true positions.

    Raises:
        ConfigError: If a key is unknown or a value does not fit.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        given = {} if config is None else config
        if not isinstance(given, Mapping):
            raise ConfigError(f"TagEnv: expected a mapping or keywords, got {config!r}.")
        twice = sorted(set(given) & set(kwargs))
        if twice:
            raise ConfigError(f"TagEnv: expected each key once, got {', '.join(twice)} as a dict and as a keyword.")
        self.config = TagEnvConfig.from_mapping({**given, **kwargs})
        self.roster = self.config.roster
        self._recorder = StatsRecorder(
            simple_tag_v3.parallel_env(
                num_good=self.config.num_good,
                num_adversaries=self.roster.num_adversaries,
                num_obstacles=self.config.num_obstacles,
                max_cycles=self.config.max_cycles,
                continuous_actions=self.config.continuous_actions,
                render_mode=self.config.render_mode,
                dynamic_rescaling=True,
                terminate_on_success=self.config.terminate_on_success,
            ),
            self.roster,
            self.config,
        )
        self.par_env = wrap(self._recorder, self.config.wrappers)
        self.render_mode = self.config.render_mode
        self._frozen_prey = None
        if self.config.good_policy not in GOOD_POLICIES:
            self._frozen_prey = load_frozen_prey(self.config.good_policy, self.config.continuous_actions)
        learned = self.config.good_policy == "learned"
        self.possible_agents = [*self.roster.adversaries, *(self.roster.good_agents if learned else ())]
        self.agents = list(self.possible_agents)
        adversary, good = adversary_space(self.config), good_space(self.config)
        self.observation_spaces = dict.fromkeys(self.roster.adversaries, adversary)
        if learned:
            self.observation_spaces |= dict.fromkeys(self.roster.good_agents, good)
        self.action_spaces = {agent: self.par_env.action_space(agent) for agent in self.possible_agents}
        self.observation_space = gym.spaces.Dict(self.observation_spaces)
        self.action_space = gym.spaces.Dict(self.action_spaces)
        self._observer = Observer(self.config)
        self._prey_rng = np.random.default_rng()
        super().__init__()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Starts an episode; the same seed gives the same episode for the same actions."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._prey_rng = np.random.default_rng([seed, 1])
        self._raw, _ = self.par_env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        self._observer.restart()
        observations = self._observe()
        self._potential = potentials(self.positions, self.roster.num_adversaries)
        return observations, {agent: {} for agent in self.agents}

    def step(
        self, action_dict: Mapping[str, Any]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Plays one step for all agents.

        Args:
            action_dict: An action for every agent in `self.agents`.

        Returns:
            Observations, rewards (MPE's own, plus shaping where configured), terminateds, truncateds (both
            with `__all__`) and infos; the last step's infos hold the episode's statistics under `__common__`.
        """
        actions = {**{agent: action_dict[agent] for agent in self.agents}, **self._prey_actions()}
        self._raw, rewards, terminations, truncations, _ = self.par_env.step(actions)
        check_finite("TagEnv.step", {"actions": actions, "observations": self._raw, "rewards": rewards})
        agents = self.agents
        observations = self._observe()
        out = {agent: float(rewards[agent]) for agent in agents}
        if self.config.shaping:
            before = self._potential
            self._potential = potentials(self.positions, self.roster.num_adversaries)
            shaped = self.config.shaping * (self.config.shaping_gamma * self._potential - before)
            for agent, extra in zip(self.roster.adversaries, shaped, strict=True):
                out[agent] += float(extra)
        terminateds = {agent: bool(terminations[agent]) for agent in agents}
        truncateds = {agent: bool(truncations[agent]) for agent in agents}
        terminateds["__all__"] = all(terminateds.values())
        truncateds["__all__"] = all(truncateds.values())
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in agents}
        if terminateds["__all__"] or truncateds["__all__"]:
            self.agents = []
            infos["__common__"] = {STATS_KEY: self.stats.summary()}
        return observations, out, terminateds, truncateds, infos

    @property
    def stats(self) -> EpisodeStats:
        """What has been counted of the running episode."""
        return self._recorder.stats

    @property
    def linked(self) -> np.ndarray:
        """Which adversaries are linked now: (N, N) booleans."""
        return self._observer.linked

    def render(self) -> np.ndarray | None:
        """The frame that MPE draws, (700, 700, 3) uint8 with `render_mode: rgb_array`; needs no display then."""
        return self.par_env.render()

    def close(self) -> None:
        """Frees what rendering holds."""
        self.par_env.close()

    def _prey_actions(self) -> dict[str, Any]:
        config, good = self.config, self.roster.good_agents
        if config.good_policy == "learned":
            return {}
        if self._frozen_prey is not None:
            actions = self._frozen_prey(self._observe_good())
        elif config.good_policy == "evasive":
            x = self.roster.num_adversaries
            actions = evasive_actions(
                self.positions[x:], self.positions[:x], self.landmark_positions, config.continuous_actions
            )
        else:
            actions = random_actions(self._prey_rng, (len(good),), config.continuous_actions)
        return dict(zip(good, actions, strict=True))

    def _observe(self) -> Observations:
        """Reads the world and the raw observations, and builds all observations."""
        world = self.par_env.unwrapped.world
        self.positions = np.array([agent.state.p_pos for agent in world.agents])
        self.velocities = np.array([agent.state.p_vel for agent in world.agents])
        self.landmark_positions = np.array([mark.state.p_pos for mark in world.landmarks]).reshape(-1, 2)
        raw = np.stack([self._raw[name] for name in self.roster.adversaries])
        seen = self._observer.observe(raw, self.positions, self.velocities, self.landmark_positions)
        observations = _by_agent(seen, self.roster.adversaries)
        if self.config.good_policy == "learned":
            observations |= _by_agent(self._observe_good(), self.roster.good_agents)
        return observations

    def _observe_good(self) -> dict[str, np.ndarray]:
        return observe_good(self.config, np.stack([self._raw[name] for name in self.roster.good_agents]))


def _by_agent(arrays: dict[str, np.ndarray], agents: tuple[str, ...]) -> Observations:
    # Copies, since the observer's arrays share memory among receivers.
    return {agent: {key: np.array(value[i]) for key, value in arrays.items()} for i, agent in enumerate(agents)}
