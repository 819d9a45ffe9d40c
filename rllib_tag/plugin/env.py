"""RLlib multi-agent environments with communication: any game, and MPE `simple_tag_v3`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.env_config import CommEnvConfig, EnvConfig, TagEnvConfig
from rllib_tag.plugin.spaces import others_space, team_space
from rllib_tag.world.comm import hear
from rllib_tag.world.episode_stats import EpisodeStats
from rllib_tag.world.game import Arrays
from rllib_tag.world.roster import Roster

STATS_KEY = "episode_stats"
Observations = dict[str, dict[str, np.ndarray]]


class CommEnv(MultiAgentEnv):
    """A game whose agents hear the teammates in range.

    The observation of a team member is a dict of float32 arrays, for a team of N, histories of T steps and messages of
    F numbers:

    | key | shape | content |
    | --- | --- | --- |
    | `messages` | (N, T, F) | the messages that arrived, oldest step first; zero where none did |
    | `message_mask` | (N, T) | 1 where the message of a step exists and arrived |
    | `links` | (N, N) | the links between agents whose messages arrived |
    | `self` | (N,) | one-hot: which of the N agents the receiver is |
    | `team` | (N, D) | critic only: the critics' state of each team member, and its class one-hot |
    | other kinds | (K, D) | critic only: the critics' state of the K entities of a kind; no such key if K is 0 |

    Links and the critics' state come from the true world state, class views from the (wrapped) env's observations, and
    episode statistics from the env's own steps inside the wrappers.

    Args:
        config: The keys of `CommEnvConfig` as one mapping (`register_env` passes a dict).
        **kwargs: The same keys as keywords (an env given by class path gets keywords).

    Attributes:
        config: The configuration.
        games: The game, as `TeamGames` with one game.
        par_env: The wrapped PettingZoo parallel env.

    Raises:
        ConfigError: If a key is unknown or a value is invalid.

    Examples:
        >>> env = CommEnv(game="rllib_tag.games.SpeakerListener", comm_range=float("inf"))
        >>> observations, _ = env.reset(seed=0)
        >>> observations["listener_0"]["message_mask"][:, -1].tolist()  # which agents it hears now
        [1.0, 1.0]
    """

    kind: ClassVar[type[EnvConfig]] = CommEnvConfig
    config: EnvConfig

    def __init__(self, config: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        given, name = {} if config is None else config, type(self).__name__
        if not isinstance(given, Mapping):
            raise ConfigError(f"{name}: expected a mapping or keywords, got {config!r}.")
        twice = sorted(set(given) & set(kwargs))
        if twice:
            raise ConfigError(f"{name}: expected each key once, got {', '.join(twice)} in the dict and as a keyword.")
        self.config = self.kind.from_mapping({**given, **kwargs})
        world = self.config.world(1)
        (self.par_env,) = world.envs
        self.games, self.render_mode = self.config.games(world), self.config.render_mode
        self.games.reset()
        game, view = self.games.game, self.games.view
        self.possible_agents = list(self.games.agents)
        self.agents = list(self.possible_agents)
        self.observation_spaces = dict.fromkeys(game.team, team_space(game, self.config.history_length, view.state))
        if game.others_learn:
            self.observation_spaces |= dict.fromkeys(game.acting[len(game.team) :], others_space(view.others))
        self.action_spaces = {agent: self.par_env.action_space(agent) for agent in self.possible_agents}
        # Agents that take no part in an episode act without effect.
        self._idle = {agent: np.zeros((1, *space.shape), space.dtype) for agent, space in self.action_spaces.items()}
        self.observation_space = gym.spaces.Dict(self.observation_spaces)
        self.action_space = gym.spaces.Dict(self.action_spaces)
        super().__init__()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Starts a new episode; the same seed and actions give the same episode."""
        super().reset(seed=seed, options=options)
        self.games.reset([seed], options=options)
        present = self.games.view.present
        here = np.ones(len(self.possible_agents), bool) if present is None else present[0]
        self._here = [agent for agent, takes_part in zip(self.possible_agents, here, strict=True) if takes_part]
        self.agents = list(self._here)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, action_dict: Mapping[str, Any]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Steps the game with the actions of all agents that take part.

        Args:
            action_dict: An action for every agent in `self.agents`.

        Returns:
            Observations, rewards (the env's own, plus shaping if configured), terminateds, truncateds and infos. All
            agents stop at once, so terminateds and truncateds only have `__all__`: with a flag for each agent, RLlib's
            new API stack would take a truncated episode for a terminated one. The infos of the last step contain the
            episode's statistics under `__common__`.
        """
        agents = self.agents
        actions = {**self._idle, **{agent: np.asarray(action_dict[agent])[None] for agent in agents}}
        step = self.games.step(actions, restart=False)
        by_agent = dict(zip(self.possible_agents, step.rewards[0].tolist(), strict=True))
        rewards = {agent: by_agent[agent] for agent in agents}
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in agents}
        if step.stats:
            self.agents = []
            infos["__common__"] = {STATS_KEY: step.stats[0]}
        terminateds, truncateds = ({"__all__": bool(flags[0])} for flags in (step.terminated, step.truncated))
        return self._observe(), rewards, terminateds, truncateds, infos

    @property
    def group_of(self) -> dict[str, str]:
        """The class of each agent, which has the name of its policy."""
        return self.games.game.group_of

    @property
    def stats(self) -> EpisodeStats:
        """The statistics of the current episode."""
        return self.games.stats

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the current episode so far."""
        return self.games.metrics(0)

    @property
    def linked(self) -> np.ndarray:
        """Which team members are linked now: (N, N) booleans."""
        return self.games.view.links[0]

    def render(self) -> np.ndarray | None:
        """Renders the env; with `render_mode: rgb_array`, returns the frame as uint8."""
        return self.par_env.render()

    def close(self) -> None:
        """Closes the env, which frees the resources of rendering."""
        self.par_env.close()

    def _observe(self) -> Observations:
        game, view, history = self.games.game, self.games.view, self.games.history
        heard = hear(history.window()[0], history.valid[0], view.links[0], self.config.comm_hops)
        observations = _by_agent(game.team, heard, view.state)
        if game.others_learn:
            others = game.acting[len(game.team) :]
            observations |= _by_agent(others, {key: value[0] for key, value in view.others.items()}, {})
        return {agent: observations[agent] for agent in self._here}


class TagEnv(CommEnv):
    """Class A and class B adversaries hunt good agents and hear the teammates in range.

    An adversary's observation is that of `CommEnv`. A message has F = 8 + 2z + 4y numbers for z landmarks and y good
    agents. The critics' state is `team` (N, 6), the true position, velocity and class one-hot of each adversary; `good`
    (y, 4), the true position and velocity of each good agent; and `landmarks` (z, 2), their true positions. MPE has no
    walls: for critics and shaping, coordinates end at -2 and 2.

    A learning good agent observes `own` (4,), `adversaries` (x, 2), `good` (y - 1, 4) if y > 1, and `landmarks` (z, 2)
    if z > 0, in absolute coordinates.

    If the size of a game is drawn (`TagEnvConfig`), arrays have the size of the largest one, and zeros in the places of
    what is absent. Only the agents that take part in an episode observe and act. The critics' state also says who and
    what is present: `team_present` (N,), `good_present` (y,) and `landmarks_present` (z,).

    Episodes are truncated after `max_cycles` MPE steps; with `terminate_on_success`, they may terminate earlier.

    Args:
        config: The keys of `TagEnvConfig` as one mapping (`register_env` passes a dict).
        **kwargs: The same keys as keywords (an env given by class path gets keywords).

    Attributes:
        config: The `TagEnvConfig`.
        roster: The agents and their classes.
        par_env: The wrapped PettingZoo parallel env; `par_env.unwrapped.world` is MPE's true state.

    Raises:
        ConfigError: If a key is unknown or a value is invalid.

    Examples:
        >>> env = TagEnv(num_class_a=3, num_class_b=1, comm_range=0.5)
        >>> observations, _ = env.reset(seed=0)
        >>> observations["adversary_0"]["messages"].shape  # 4 senders, 4 steps, 8 + 2 * 2 + 4 * 1 numbers
        (4, 4, 16)
        >>> _, rewards, _, _, _ = env.step({agent: 0 for agent in env.agents})
        >>> sorted(rewards)
        ['adversary_0', 'adversary_1', 'adversary_2', 'adversary_3']
    """

    kind = TagEnvConfig
    config: TagEnvConfig

    @property
    def roster(self) -> Roster:
        """The agents and their classes."""
        return self.config.roster

    @property
    def positions(self) -> np.ndarray:
        """The true positions (N + y, 2) in world units, adversaries first."""
        return self.games.facts["positions"][0]

    @property
    def velocities(self) -> np.ndarray:
        """The true velocities (N + y, 2) in world units per second, adversaries first."""
        return self.games.facts["velocities"][0]

    @property
    def landmark_positions(self) -> np.ndarray:
        """The true positions of the landmarks (z, 2) in world units."""
        return self.games.facts["landmarks"][0]


def _by_agent(agents: Sequence[str], own: Arrays, common: Arrays) -> Observations:
    """Splits each agent's own arrays, from (n, ...), and adds the common ones, from (1, ...).

    The arrays are copied, because they share memory.
    """
    return {
        agent: {
            **{key: value[i].copy() for key, value in own.items()},
            **{key: value[0].copy() for key, value in common.items()},
        }
        for i, agent in enumerate(agents)
    }
