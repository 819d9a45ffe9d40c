"""PPO that samples on arrays and encodes each team state only once."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tree
from ray import cloudpickle as pickle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo.ppo import PPO, PPOConfig
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    LEARN_ON_BATCH_TIMER,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_TRAINED,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_TRAINED,
    SAMPLE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
)
from torch import Tensor

from rllib_tag.plugin.old_api_stack.from_exported import FromExported
from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler, TeamBatch
from rllib_tag.plugin.old_api_stack.team_policy import TeamPolicy, sharing
from rllib_tag.plugin.ray_internals import (
    LEARNER_STATS_KEY,
    LearnerInfoBuilder,
    episode_history,
    on_each_runner,
    standardize_fields,
    synchronous_parallel_sample,
)

NOTE = "note"  # key of a result's message to the user
SAMPLING = "sampling_state.pkl"  # beside RLlib's own files in a checkpoint
ENCODED = {"messages", "history", "links", "receivers"}  # what an encoder reads of an observation
# Into how many parts a minibatch is split at most, each encoded by a thread. More would mostly wait for Python's lock.
MOST_PARTS = 4


Map = Callable[..., Iterable[Any]]  # such as `map`


class TeamPPOConfig(PPOConfig):
    """PPO's config with `BatchedSampler` as the env runner.

    Every key means the same as in PPO, except for those for which `default_sampler_reason` gives a reason: `rllib
    train` samples such configs with RLlib's default sampler, and a config built by hand must not use these keys.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or TeamPPO)
        self.env_runner_cls = BatchedSampler


class TeamPPO(FromExported, PPO):
    """RLlib's PPO on rows that hold team states (`TeamPolicy`), sampled by `BatchedSampler`.

    Objective, hyperparameters, counters and checkpoints are the same; PPO's warnings about badly scaled losses are
    omitted. Each epoch splits the shuffled rows into equal minibatches of about `minibatch_size` agent steps. Policies
    that share no weights learn in parallel; an encoder that they share encodes parts of a minibatch in parallel.
    Together, they use about as many threads as the run has CPUs.
    """

    _notes: Sequence[str] = ()

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Returns PPO's config with the batched sampler."""
        return TeamPPOConfig()

    @classmethod
    def get_default_policy_class(cls, config: AlgorithmConfig) -> type[Policy]:
        """Returns `TeamPolicy`."""
        return TeamPolicy

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes RLlib's checkpoint, and beside it what the runners' next samples depend on."""
        super().save_checkpoint(checkpoint_dir)
        states = dict(on_each_runner(self, lambda w: (w.worker_index, w.sampling_state())))
        kept = {"trial": self.trial_id, "episodes": episode_history(self), "runners": states}
        (Path(checkpoint_dir) / SAMPLING).write_bytes(pickle.dumps(kept))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restores a checkpoint; one of the same trial continues the same games with the same random numbers.

        A checkpoint of another trial, as in population-based training, only provides weights, optimizer and counters.
        """
        super().load_checkpoint(checkpoint_dir)
        file = Path(checkpoint_dir) / SAMPLING
        kept = pickle.loads(file.read_bytes()) if file.exists() else {}
        if kept.get("trial") != self.trial_id:
            return
        episode_history(self)[:] = kept["episodes"]
        states = kept["runners"]
        found = dict(on_each_runner(self, lambda w: (w.worker_index, w.set_sampling_state(states.get(w.worker_index)))))
        expected = {*states, *range(self.config.num_env_runners + 1)}
        reasons = {index: found.get(index, "does not respond; its games start over") for index in sorted(expected)}
        self._notes = [f"env runner {index} {reason}" for index, reason in reasons.items() if reason is not None]

    def step(self) -> dict[str, Any]:
        """Runs one iteration; the first result after a checkpoint has a `note` if the run did not continue exactly."""
        result = super().step()
        if self._notes:
            result[NOTE], self._notes = "; ".join(self._notes), []
        return result

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
        agent_steps = TeamBatch(batch.policy_batches, batch.count).agent_steps()
        self._counters[NUM_ENV_STEPS_SAMPLED] += batch.env_steps()
        self._counters[NUM_AGENT_STEPS_SAMPLED] += agent_steps
        with self._timers[LEARN_ON_BATCH_TIMER]:
            results = self._learn(standardize_fields(batch, [Postprocessing.ADVANTAGES]))
        self._timers[LEARN_ON_BATCH_TIMER].push_units_processed(batch.env_steps())
        self._counters[NUM_ENV_STEPS_TRAINED] += batch.env_steps()
        self._counters[NUM_AGENT_STEPS_TRAINED] += agent_steps
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
        trained = self.env_runner.get_policies_to_train(batch)
        jobs = []
        for names in sharing({name: self.get_policy(name) for name in sorted(batch.policy_batches)}):
            parts = {name: batch.policy_batches[name] for name in names if name in trained}
            if parts:
                obs = None
                if len(names) > 1:
                    seen = [batch.policy_batches[name][SampleBatch.OBS] for name in names]
                    obs = {key: column for each in seen for key, column in each.items()}  # one of them has the state
                    obs["receivers"] = np.concatenate([each["receivers"] for each in seen], axis=1)
                jobs.append((parts, obs, np.random.default_rng(np.random.randint(2**31))))
        builder = LearnerInfoBuilder()
        policies = [[self.get_policy(name) for name in parts] for parts, *_ in jobs]
        at_once = 1 if _share_weights(policies) else max(1, len(jobs))
        cpus = max(torch.get_num_threads(), self._cpus())
        on_cpus = all(policy.device.type == "cpu" for group in policies for policy in group)
        num_parts = min(MOST_PARTS, cpus) if on_cpus and any(obs is not None for _, obs, _ in jobs) else 1
        threads = max(1, cpus // (at_once * num_parts))
        of_parts = _mapping("parts", num_parts, threads)
        with _threads(threads):
            for learned in _mapping("policies", at_once, threads)(
                lambda job: self._epochs(*job), [(*job, num_parts, of_parts) for job in jobs]
            ):
                for name, results in learned.items():
                    for result in results:
                        builder.add_learn_on_batch_results(result, name)
        return builder.finalize()

    def _cpus(self) -> int:
        """Returns how many CPUs of this machine the run has: learner and env runners take turns on them."""
        config = self.config
        cpus = config.num_cpus_for_main_process + config.num_env_runners * config.num_cpus_per_env_runner
        return min(int(cpus), os.cpu_count() or 1)

    def _epochs(
        self, batches: Mapping[str, SampleBatch], obs: Mapping[str, np.ndarray] | None, rng: np.random.Generator,
        num_parts: int, of_parts: Map,
    ) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
        """Learns from all minibatches of all epochs.

        Args:
            batches: The batches of policies whose minibatches are the same rows.
            obs: What the encoder that they share reads; None if it is a single policy.
            rng: For the order of the rows.
            num_parts: The number of parts in which the encoder that they share encodes a minibatch.
            of_parts: Calls a function for each of them.

        Returns:
            The statistics of each minibatch, by policy.
        """
        policies = {name: self.get_policy(name) for name in batches}
        per_row = {name: batch[SampleBatch.ACTION_LOGP][0].size for name, batch in batches.items()}
        rows = len(next(iter(batches.values())))
        size = self.config.minibatch_size or rows * max(per_row.values())
        count = max(1, round(rows * sum(per_row.values()) / len(per_row) / size))
        updates_before = {name: policy.num_grad_updates for name, policy in policies.items()}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in batches}
        for _ in range(self.config.num_epochs):
            for chosen in np.array_split(rng.permutation(rows), min(count, rows)):
                given = {}
                for name, batch in batches.items():
                    taken = tree.map_structure(lambda column: column[chosen], dict(batch))  # noqa: B023
                    given[name] = SampleBatch(taken)
                    given[name].num_grad_updates = updates_before[name]
                if obs is None:
                    ((name, policy),) = policies.items()
                    learned = {name: policy.learn_on_batch(given[name])}
                else:
                    seen = [
                        {key: column[part] for key, column in obs.items()}
                        for part in np.array_split(chosen, min(num_parts, len(chosen)))
                    ]
                    learned = learn_together(policies, given, seen, of_parts)
                for name, result in learned.items():
                    results[name].append({**result, NUM_AGENT_STEPS_TRAINED: len(chosen) * per_row[name]})
        return results


def learn_together(
    policies: Mapping[str, TeamPolicy], minibatches: Mapping[str, SampleBatch],
    parts: Sequence[Mapping[str, np.ndarray]], of_parts: Map = map,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Learns from the same rows with policies that share an encoder, which encodes them once.

    The loss is the sum of the policies' own. Each policy updates its own weights with RLlib's `learn_on_batch`; the
    gradients of all losses at the encoder's output then update the encoder, with the optimizer of the first policy.

    Args:
        policies: The policies.
        minibatches: The rows of each.
        parts: What the encoder reads, in one or several parts of the rows, in order.
        of_parts: Calls a function for each part, or policy. Default: one after the other.
    """
    first, *_ = policies.values()
    for policy in policies.values():
        policy.model.train()
        policy.clear_gradients()
    encoded = list(of_parts(first.features, parts))  # each (rows of the part, C, n, H)
    features = torch.cat([part.detach() for part in encoded])  # (R, C, n, H)
    wanted = torch.zeros_like(features)
    places = parts[0]["receivers"][0].tolist()
    state = {key: np.concatenate([part[key] for part in parts]) for key in parts[0].keys() - ENCODED}

    def learn(name: str) -> dict[str, Any]:
        given = minibatches[name]
        receivers = given[SampleBatch.OBS]["receivers"]
        own = [places.index(place) for place in receivers[0]]
        heard = features[:, :, own].requires_grad_()
        given[SampleBatch.OBS] = {**state, "receivers": receivers, "features": heard}
        result = policies[name].learn_on_batch(given)
        assert heard.grad is not None
        wanted[:, :, own] = heard.grad
        return result

    share_critic = len({id(policy.model.net.critic) for policy in policies.values()}) < len(policies)
    learned = list((map if share_critic else of_parts)(learn, policies))
    weights = list(first.model.net.encoder.parameters())

    def gradients(part: Tensor, wanted: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(part, weights, wanted, allow_unused=True, materialize_grads=True)

    of_all = of_parts(gradients, encoded, wanted.split([len(part) for part in encoded]))
    first.update_encoder([torch.stack(each).sum(0) for each in zip(*of_all, strict=True)])
    return dict(zip(policies, learned, strict=True))


def _share_weights(groups: Sequence[Sequence[TeamPolicy]]) -> bool:
    """Whether any weights belong to several groups of policies."""
    owned = [{id(weight) for policy in group for weight in policy.model.parameters()} for group in groups]
    return sum(map(len, owned)) > len(set().union(*owned))


def _mapping(purpose: str, workers: int, threads: int) -> Map:
    """Returns `map`, or what does the same with several workers."""
    return map if workers == 1 else _pool(purpose, workers, threads).map


@functools.cache
def _pool(purpose: str, workers: int, threads: int) -> ThreadPoolExecutor:
    """Returns workers for one purpose, each of which uses a number of threads in torch.

    They are kept, because memory that they have freed is faster to get again. Workers must not wait for each other, so
    those of another purpose are others.
    """
    return ThreadPoolExecutor(workers, purpose, torch.set_num_threads, (threads,))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Sets torch's number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
