"""PPO that samples on arrays and encodes each team state only once."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo.ppo import PPO, PPOConfig
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.metrics import (
    LEARN_ON_BATCH_TIMER,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_TRAINED,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_TRAINED,
    SAMPLE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
)

from rllib_tag.plugin.exact_resume import ResumesExactly
from rllib_tag.plugin.old_api_stack.from_exported import FromExported
from rllib_tag.plugin.old_api_stack.learning import learn
from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler
from rllib_tag.plugin.old_api_stack.team_policy import TeamPolicy
from rllib_tag.plugin.ray_internals import (
    LEARNER_STATS_KEY,
    synchronous_parallel_sample,
)
from rllib_tag.plugin.team_rows import agent_steps, standardize_advantages


class TeamPPOConfig(PPOConfig):
    """PPO's config with `BatchedSampler` as the env runner.

    Every key means the same as in PPO, except for those for which `default_sampler_reason` gives a reason: `rllib
    train` samples such configs with RLlib's default sampler, and a config built by hand must not use these keys.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or TeamPPO)
        self.env_runner_cls = BatchedSampler


class TeamPPO(ResumesExactly, FromExported, PPO):
    """RLlib's PPO on rows that hold team states (`TeamPolicy`), sampled by `BatchedSampler`.

    Objective, hyperparameters, counters and checkpoints are the same; PPO's warnings about badly scaled losses are
    omitted. Each epoch splits the shuffled rows into equal minibatches of about `minibatch_size` agent steps. Policies
    that share no weights learn in parallel; an encoder that they share encodes parts of a minibatch in parallel.
    Together, they use about as many threads as the run has CPUs.
    """

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Returns PPO's config with the batched sampler."""
        return TeamPPOConfig()

    @classmethod
    def get_default_policy_class(cls, config: AlgorithmConfig) -> type[Policy]:
        """Returns `TeamPolicy`."""
        return TeamPolicy

    def training_step(self) -> dict[str, Any]:
        """Samples a train batch, learns from it, and sends the weights to the workers."""
        with self._timers[SAMPLE_TIMER]:
            batch = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                max_env_steps=self.config.total_train_batch_size,
                sample_timeout_s=self.config.sample_timeout_s,
            )
        if not batch:  # all workers failed and are being restarted
            return {}
        num_agent_steps = sum(map(agent_steps, batch.policy_batches.values()))
        self._counters[NUM_ENV_STEPS_SAMPLED] += batch.env_steps()
        self._counters[NUM_AGENT_STEPS_SAMPLED] += num_agent_steps
        with self._timers[LEARN_ON_BATCH_TIMER]:
            results = self._learn(standardize_advantages(batch))
        self._timers[LEARN_ON_BATCH_TIMER].push_units_processed(batch.env_steps())
        self._counters[NUM_ENV_STEPS_TRAINED] += batch.env_steps()
        self._counters[NUM_AGENT_STEPS_TRAINED] += num_agent_steps
        policies = {name: self.get_policy(name) for name in results}
        global_vars = {
            "timestep": self._counters[NUM_AGENT_STEPS_SAMPLED],
            "num_grad_updates_per_policy": {name: policy.num_grad_updates for name, policy in policies.items()},
        }
        with self._timers[SYNCH_WORKER_WEIGHTS_TIMER]:
            if self.env_runner_group.num_remote_workers() > 0:
                self.env_runner_group.sync_weights(policies=list(policies), global_vars=global_vars)
        for name, policy in policies.items():
            policy.update_kl(results[name][LEARNER_STATS_KEY]["kl"])
        self.env_runner.set_global_vars(global_vars)
        return results

    def _learn(self, batch: MultiAgentBatch) -> dict[str, Any]:
        """Trains all policies to be trained for all epochs, and returns RLlib's statistics by policy."""
        policies = {name: self.get_policy(name) for name in sorted(batch.policy_batches)}
        trained = self.env_runner.get_policies_to_train(batch)
        return learn(policies, batch.policy_batches, trained, self.config)
