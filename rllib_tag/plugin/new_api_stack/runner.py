"""Sampling on arrays: an env runner that runs no Python code per agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.metrics import (
    EPISODE_AGENT_RETURN_MEAN,
    EPISODE_MODULE_RETURN_MEAN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
)
from torch import Tensor

from rllib_tag.errors import ConfigError
from rllib_tag.nn.network import AdversaryNet, GoodNet
from rllib_tag.plugin.callbacks import log_episode
from rllib_tag.plugin.class_paths import env_class
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.fragments import GamePlayer
from rllib_tag.plugin.new_api_stack.module import CommModule
from rllib_tag.plugin.ray_internals import sub_environment_seed
from rllib_tag.plugin.runner_errors import ErrorBatch, NamesErrors, runner_error
from rllib_tag.plugin.sampling_state import sampling_state, set_sampling_state
from rllib_tag.plugin.team_rows import PRESENT, Observed, TeamBatch, by_game


class ModuleActor:
    """A `CommModule` as an `Actor`.

    Args:
        module: The module.
        config: Its config. Actions are drawn if it says `explore`; otherwise, they are the most likely ones.
    """

    def __init__(self, module: CommModule, config: AlgorithmConfig) -> None:
        self._module, self.gamma, self.lambda_, self._explore = module, config.gamma, config.lambda_, config.explore
        self.action_space_struct = module.action_space_struct

    @property
    def net(self) -> AdversaryNet | GoodNet:
        """The network."""
        return self._module.net

    def act(self, obs: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chooses actions in B games."""
        team, kind = self._module.team, self._module.get_exploration_action_dist_cls()
        with torch.no_grad():
            outputs, _ = team.encode(team.tensors(obs))
            dist = kind.from_logits(outputs)
            actions = (dist if self._explore else dist.to_deterministic()).sample()
            logp = dist.logp(actions)
        return by_game(obs, actions), by_game(obs, logp), by_game(obs, outputs)

    def values(self, obs: Observed) -> np.ndarray:
        """Returns values (R, C, n)."""
        return self._module.team.values(obs)

    def features(self, obs: Observed) -> Tensor:
        """Returns the encoder's output for the receivers of the observations: (R, C, n, H)."""
        return self._module.team.features(obs)


class GuardedEnvRunner(NamesErrors, MultiAgentEnvRunner):
    """RLlib's env runner, but an exception in it ends the run and names its place.

    RLlib would restart a remote runner again and again. It still handles dead processes, and all exceptions with
    `ignore_env_runner_failures`.
    """

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Returns the result of a function on this runner, or an `ErrorBatch`; RLlib calls remote runners this way."""

        def guarded(_: GuardedEnvRunner) -> Any:
            try:
                return func(self, *args, **kwargs)
            except Exception as error:
                return ErrorBatch(runner_error(self, error))

        return super().apply(guarded)


class TeamEnvRunner(GuardedEnvRunner):
    """Samples `num_envs_per_env_runner` games at once, with one forward pass per module and step.

    For the same seeds and actions, observations, rewards, values and advantages equal those of RLlib's own runner. A
    sample is one `TeamBatch`, for use with `TeamPPO`. The metrics that `TagCallbacks` reports are always reported;
    callbacks for environments, episodes and samples are not called.

    Raises:
        ConfigError: If the environment is not a `CommEnv`.
    """

    def make_env(self) -> None:
        """Starts the games."""
        config = self.config
        kind = env_class("env", config.env)
        if kind is None or not issubclass(kind, CommEnv):
            raise ConfigError(f"TeamEnvRunner: expected rllib_tag.TagEnv or CommEnv, got {config.env}. Use PPO.")
        self.env = kind(dict(config.env_config))
        self.num_envs = config.num_envs_per_env_runner
        games = self.env.config.games(self.env.config.batched_world(self.num_envs))
        self._policy_of = {agent: config.policy_mapping_fn(agent, None) for agent in games.agents}
        if config.seed is not None:  # the games that the old API stack plays with this seed
            games.reset([sub_environment_seed(config.seed, self.worker_index, i) for i in range(self.num_envs)])
        games.reset()
        self._games = games
        self._player: GamePlayer | None = None

    def sample_or_raise(self, **kwargs: Any) -> list[TeamBatch]:
        """Returns one fragment of every game: `rollout_fragment_length` steps, or complete episodes."""
        batch = self._playing().sample(self.worker_index)
        self._count(batch)
        return [batch]

    def get_metrics(self) -> Any:
        """Returns the metrics since the last call."""
        player, log = self._playing(), self.metrics.log_value
        finished, player.finished = player.finished, []
        log(NUM_EPISODES, len(finished), reduce="sum")
        log(NUM_EPISODES_LIFETIME, len(finished), reduce="lifetime_sum")
        for episode in finished:
            log_episode(self.metrics, ("episode_len",), episode.length)
            log_episode(self.metrics, ("episode_return",), sum(episode.returns.values()))
            for name, value in episode.metrics.items():
                log_episode(self.metrics, ("custom_metrics", name), value)
            by_module: dict[str, float] = {}
            for agent, value in episode.returns.items():
                module = self._policy_of[agent]
                by_module[module] = by_module.get(module, 0.0) + value
                log((EPISODE_AGENT_RETURN_MEAN, agent), value, reduce="mean")
            for module, value in by_module.items():
                log((EPISODE_MODULE_RETURN_MEAN, module), value, reduce="mean")
        return self.metrics.reduce()

    def get_spaces(self) -> dict[str, Any]:
        """Returns the spaces of the game and of each module's agents."""
        if self.env is None:
            return self.spaces
        of_game = self.env.observation_space, self.env.action_space
        spaces = {name: of_game for name in (INPUT_ENV_SPACES, INPUT_ENV_SINGLE_SPACES)}
        for agent, name in self._policy_of.items():
            spaces[name] = self.env.observation_spaces[agent], self.env.action_spaces[agent]
        return spaces

    def sampling_state(self) -> bytes:
        """Returns what the next samples depend on and RLlib's checkpoints lack: running games and random states."""
        return sampling_state(self._playing() if self.env else None, self._kind())

    def set_sampling_state(self, state: bytes | None) -> str | None:
        """Continues from a `sampling_state`; returns why sampling does not continue exactly, None if it does."""
        return set_sampling_state(self._playing() if self.env else None, self._kind(), state)

    def _playing(self) -> GamePlayer:
        if self._player is None:
            actors = {
                name: ModuleActor(module, self.config.get_config_for_module(name))
                for name, module in self.module.items()
            }
            self._player = GamePlayer(self._games, self._policy_of, actors, self.config)
        return self._player

    def _kind(self) -> Any:
        return None if self.env is None else (self.env.config, self.num_envs)

    def _count(self, batch: TeamBatch) -> None:
        """Logs how much was sampled: env steps, and the steps of each module and agent."""
        counts: list[tuple[Any, Any, int]] = [
            (NUM_ENV_STEPS_SAMPLED, NUM_ENV_STEPS_SAMPLED_LIFETIME, batch.env_steps())
        ]
        for module, part in batch.policy_batches.items():
            here = part.get(PRESENT, np.ones(part[Columns.ACTION_LOGP].shape, bool)).sum((0, 1)).tolist()
            agents = [agent for agent, name in self._policy_of.items() if name == module]
            for agent, steps in zip(agents, here, strict=True):
                counts.append(((NUM_AGENT_STEPS_SAMPLED, agent), (NUM_AGENT_STEPS_SAMPLED_LIFETIME, agent), steps))
            steps = sum(here)
            counts.append(((NUM_MODULE_STEPS_SAMPLED, module), (NUM_MODULE_STEPS_SAMPLED_LIFETIME, module), steps))
        for key, lifetime, count in counts:
            self.metrics.log_value(key, count, reduce="sum")
            self.metrics.log_value(lifetime, count, reduce="lifetime_sum")
