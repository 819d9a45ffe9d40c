"""Sampling on arrays: a rollout worker that runs no Python code per agent."""

from __future__ import annotations

import math
from typing import Any

from ray.rllib.policy.sample_batch import MultiAgentBatch

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.fragments import Episode, GamePlayer
from rllib_tag.plugin.old_api_stack.runner import TagRunner
from rllib_tag.plugin.ray_internals import RolloutMetrics, sub_environment_seed
from rllib_tag.plugin.sampling_state import sampling_state, set_sampling_state
from rllib_tag.plugin.team_rows import TeamBatch


class BatchedSampler(TagRunner):
    """Samples `num_envs_per_env_runner` games at once, with one forward pass per policy and step.

    Weights, metrics, checkpoints, evaluation workers and restarts are RLlib's own. For the same seeds and actions,
    observations, rewards, values and advantages equal those of RLlib's default sampler. The metrics that `TagCallbacks`
    reports are always reported; callbacks for episodes and samples are not called.

    For use with `TeamPPO`: the rows of a batch are those of `TeamPolicy`.
    """

    def prepare(self) -> None:
        """Starts the games.

        Raises:
            ConfigError: If the environment is not a `CommEnv`.
        """
        self._waiting: list[tuple[MultiAgentBatch, Episode]] = []
        self._player: GamePlayer | None = None
        if self.env is None:
            return
        if not isinstance(self.env, CommEnv):
            raise ConfigError(
                f"BatchedSampler: expected rllib_tag.TagEnv or CommEnv, got {type(self.env).__name__}. Use PPO."
            )
        config, num_envs = self.config, self.config.num_envs_per_env_runner
        # RLlib's evaluation takes one episode per call until it has the requested number.
        self._one_by_one = config.in_evaluation and config.evaluation_duration_unit == "episodes"
        if self._one_by_one and config.evaluation_duration != "auto":
            runners = max(1, config.evaluation_num_env_runners)
            num_envs = min(num_envs, math.ceil(config.evaluation_duration / runners))
        games = self.env.config.games(self.env.config.batched_world(num_envs))
        self._policy_of = {agent: self.policy_mapping_fn(agent, None, worker=self) for agent in games.agents}
        if self.seed is not None:  # the seeds that RLlib gives its sub-environments, which it resets once more
            games.reset([sub_environment_seed(self.seed, self.worker_index, i) for i in range(num_envs)])
        games.reset()
        self._player = GamePlayer(games, self._policy_of, self.policy_map, config)

    def sample_or_raise(self, **kwargs: Any) -> MultiAgentBatch:
        """Returns one fragment of every game: `rollout_fragment_length` steps, or complete episodes.

        If evaluation counts episodes, each call returns one episode.
        """
        player = self._player
        assert player is not None  # RLlib samples where there is an environment
        if not self._one_by_one:
            return player.sample(self.worker_index)
        if not self._waiting:
            batch, B = player.sample(self.worker_index), player.games.num_games
            ended, player.finished = player.finished[-B:], player.finished[:-B]
            for i in range(B):
                parts = {}
                for name, part in batch.policy_batches.items():
                    rows = len(part) // B
                    parts[name] = part[i * rows : (i + 1) * rows]
                self._waiting.append((TeamBatch(parts, batch.count // B), ended[i]))
        batch, episode = self._waiting.pop(0)
        player.finished.append(episode)
        return batch

    def get_metrics(self) -> list[RolloutMetrics]:
        """Returns the metrics of the episodes that have ended since the last call."""
        if self._player is None:
            return []
        finished, self._player.finished = self._player.finished, []
        return [
            RolloutMetrics(
                episode_length=episode.length,
                episode_reward=sum(episode.returns.values()),
                agent_rewards={(agent, self._policy_of[agent]): value for agent, value in episode.returns.items()},
                custom_metrics=episode.metrics,
            )
            for episode in finished
        ]

    def sampling_state(self) -> bytes:
        """Returns what the next samples depend on and RLlib's checkpoints lack: running games and random states."""
        return sampling_state(self._player, self._kind())

    def set_sampling_state(self, state: bytes | None) -> str | None:
        """Continues from a `sampling_state`, unless it is that of different games.

        Args:
            state: The state; None if there is none.

        Returns:
            Why sampling does not continue exactly; None if it does.
        """
        return set_sampling_state(self._player, self._kind(), state)

    def _kind(self) -> Any:
        return None if self._player is None else (self.env.config, self._player.games.num_games)
