"""MPE `simple_tag_v3` as an RLlib multi-agent environment in which adversaries talk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from mpe2 import simple_tag_v3
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_tag.errors import ConfigError, check_keys
from rllib_tag.plugin.env_config import GOOD_POLICIES, TagEnvConfig
from rllib_tag.plugin.episode_stats import EpisodeStats
from rllib_tag.plugin.prey import load_frozen_prey
from rllib_tag.plugin.wrappers import wrap
from rllib_tag.world.behaviours import evasive_actions, random_actions
from rllib_tag.world.comm import heard_links, links, reach
from rllib_tag.world.observations import MessageLayout, decode, messages

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

    Links, the critic's state and the episode's statistics come from the true world; class views come from
    the (wrapped) raw observations. Episodes end by truncation after `max_cycles` steps.

    Args:
        config: The keys of `TagEnvConfig` as one mapping (`register_env` gives a dict).
        **kwargs: The same keys as keywords (an env given by class path gets keywords).

    Raises:
        ConfigError: If a key is unknown or a value does not fit.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        given = {} if config is None else config
        if not isinstance(given, Mapping):
            raise ConfigError(f"TagEnv: expected a mapping or keywords, got {config!r}.")
        check_keys("TagEnv: given twice, as a dict and as a keyword", set(given) & set(kwargs), [])
        self.config = TagEnvConfig.from_mapping({**given, **kwargs})
        self.roster = self.config.roster
        self.par_env = wrap(
            simple_tag_v3.parallel_env(
                num_good=self.config.num_good,
                num_adversaries=self.roster.num_adversaries,
                num_obstacles=self.config.num_obstacles,
                max_cycles=self.config.max_cycles,
                continuous_actions=self.config.continuous_actions,
                render_mode=self.config.render_mode,
                dynamic_rescaling=True,
            ),
            self.config.wrappers,
        )
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
        self.stats = EpisodeStats(self.roster, self.config.max_cycles)
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
        T, F = self.config.history_length, MessageLayout(self.config.num_good, self.config.num_obstacles).width
        self._history = np.zeros((self.roster.num_adversaries, T, F), np.float32)
        self._valid = np.zeros(T, np.float32)
        self.stats = EpisodeStats(self.roster, self.config.max_cycles)
        observations = self._observe()
        self._potential = self._potentials()
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
        agents = self.agents
        observations = self._observe()
        world = self.par_env.unwrapped.world
        self.stats.step(world, {name: float(reward) for name, reward in rewards.items()}, self.linked)
        out = {agent: float(rewards[agent]) for agent in agents}
        if self.config.shaping:
            before, self._potential = self._potential, self._potentials()
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
            actions = self._frozen_prey([self._good_observation(agent) for agent in good])
        elif config.good_policy == "evasive":
            x = self.roster.num_adversaries
            actions = evasive_actions(
                self.positions[x:], self.positions[:x], self.landmark_positions, config.continuous_actions
            )
        else:
            actions = random_actions(self._prey_rng, len(good), config.continuous_actions)
        return dict(zip(good, actions, strict=True))

    def _observe(self) -> Observations:
        """Reads the world and the raw observations, moves the histories on, and builds all observations."""
        world = self.par_env.unwrapped.world
        self.positions = np.array([agent.state.p_pos for agent in world.agents])
        self.velocities = np.array([agent.state.p_vel for agent in world.agents])
        self.landmark_positions = np.array([mark.state.p_pos for mark in world.landmarks]).reshape(-1, 2)
        x, roster = self.roster.num_adversaries, self.roster
        raw = np.stack([self._raw[name] for name in roster.adversaries]).astype(np.float32)
        now = messages(raw, roster, self.config.num_obstacles, full_observation=self.config.full_observation)
        self._history = np.concatenate([self._history[:, 1:], now[:, None]], axis=1)  # (N, T, F)
        self._valid = np.append(self._valid[1:], np.float32(1))  # (T,)
        self.linked = links(self.positions[:x], self.config.comm_range)
        arrived = reach(self.linked, self.config.comm_hops)
        known = heard_links(self.linked, arrived).astype(np.float32)  # (N, N, N)
        arrived = arrived.astype(np.float32)
        heard = arrived[:, :, None, None] * self._history  # (N, N, T, F)
        mask = arrived[:, :, None] * self._valid  # (N, N, T)
        one_hot = np.eye(x, dtype=np.float32)
        state = self._state()
        observations: Observations = {
            name: {"messages": heard[i], "message_mask": mask[i], "links": known[i], "self": one_hot[i], **state}
            for i, name in enumerate(roster.adversaries)
        }
        if self.config.good_policy == "learned":
            observations |= {name: self._good_observation(name) for name in roster.good_agents}
        return observations

    def _state(self) -> dict[str, np.ndarray]:
        """The global state, for the critic: `team`, `good` and, if there are any, `landmarks`."""
        x = self.roster.num_adversaries
        moving = np.concatenate([self.positions, self.velocities], axis=1).astype(np.float32)
        team = np.concatenate([moving[:x], np.eye(2, dtype=np.float32)[self.roster.classes]], axis=1)
        state = {"team": team, "good": moving[x:]}
        if self.config.num_obstacles:
            state["landmarks"] = self.landmark_positions.astype(np.float32)
        return state

    def _good_observation(self, agent: str) -> dict[str, np.ndarray]:
        raw = np.asarray(self._raw[agent], np.float32)
        fields = decode(raw, self.roster, self.config.num_obstacles, good=True)
        obs = {
            "own": np.concatenate([fields.position, fields.velocity]),
            "adversaries": fields.adversaries + fields.position,
            "good": np.concatenate([fields.good + fields.position, fields.good_velocities], axis=1),
            "landmarks": fields.landmarks + fields.position,
        }
        return {key: value for key, value in obs.items() if value.size}

    def _potentials(self) -> np.ndarray:
        """Minus the distance of every adversary to the nearest good agent: (N,)."""
        x = self.roster.num_adversaries
        offsets = self.positions[:x, None] - self.positions[None, x:]
        return -np.linalg.norm(offsets, axis=-1).min(1)


def _box(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, shape, np.float32)


def _flags(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(0.0, 1.0, shape, np.float32)


def adversary_space(config: TagEnvConfig) -> gym.spaces.Dict:
    """The observation space of an adversary, the same for both classes."""
    N, T = config.roster.num_adversaries, config.history_length
    spaces = {
        "messages": _box(N, T, MessageLayout(config.num_good, config.num_obstacles).width),
        "message_mask": _flags(N, T),
        "links": _flags(N, N),
        "self": _flags(N),
        "team": _box(N, 6),
        "good": _box(config.num_good, 4),
    }
    if config.num_obstacles:
        spaces["landmarks"] = _box(config.num_obstacles, 2)
    return gym.spaces.Dict(spaces)


def good_space(config: TagEnvConfig) -> gym.spaces.Dict:
    """The observation space of a learning good agent."""
    spaces = {"own": _box(4), "adversaries": _box(config.roster.num_adversaries, 2)}
    if config.num_good > 1:
        spaces["good"] = _box(config.num_good - 1, 4)
    if config.num_obstacles:
        spaces["landmarks"] = _box(config.num_obstacles, 2)
    return gym.spaces.Dict(spaces)
