"""How policies learn from rows that hold team states: epochs, minibatches, and encoders that policies share."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import tree
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.utils.metrics import NUM_AGENT_STEPS_TRAINED

from rllib_tag.plugin.old_api_stack.team_policy import TeamPolicy
from rllib_tag.plugin.parallel import ENCODED, MOST_PARTS, Map, cpus_for_learning, encode, mapping, torch_threads
from rllib_tag.plugin.ray_internals import LearnerInfoBuilder
from rllib_tag.plugin.team_rows import agent_steps, minibatches_per_epoch, sharing


class Job(NamedTuple):
    """Policies that learn from the same rows.

    Args:
        policies: The policies, by name.
        batches: The batch of each.
        obs: What the encoder that they share reads; None if it is a single policy.
        rng: For the order of the rows.
    """

    policies: Mapping[str, TeamPolicy]
    batches: Mapping[str, SampleBatch]
    obs: Mapping[str, np.ndarray] | None
    rng: np.random.Generator


def learn(
    policies: Mapping[str, TeamPolicy], batches: Mapping[str, SampleBatch], trained: Container[str], config: PPOConfig
) -> dict[str, Any]:
    """Trains policies for all epochs.

    Args:
        policies: All policies, by name.
        batches: The batch of each.
        trained: The names of those to train.
        config: PPO's config.

    Returns:
        RLlib's statistics, by policy.
    """
    jobs = []
    for names in sharing({name: policy.net for name, policy in policies.items()}):
        learning = [name for name in names if name in trained]
        if learning:
            obs = None
            if len(names) > 1:
                seen = [batches[name][SampleBatch.OBS] for name in names]
                obs = {key: column for each in seen for key, column in each.items()}  # one of them has the state
                obs["receivers"] = np.concatenate([each["receivers"] for each in seen], axis=1)
            rng = np.random.default_rng(np.random.randint(2**31))
            jobs.append(Job({n: policies[n] for n in learning}, {n: batches[n] for n in learning}, obs, rng))
    at_once = 1 if _share_weights(jobs) else max(1, len(jobs))
    cpus = cpus_for_learning(config)
    on_cpus = all(policy.device.type == "cpu" for policy in policies.values())
    num_parts = min(MOST_PARTS, cpus) if on_cpus and any(job.obs is not None for job in jobs) else 1
    threads = max(1, cpus // (at_once * num_parts))
    of_jobs, of_parts = mapping("jobs", at_once, threads), mapping("parts", num_parts, threads)
    builder = LearnerInfoBuilder()
    with torch_threads(threads):
        for learned in of_jobs(lambda job: _epochs(job, config, num_parts, of_parts), jobs):
            for name, results in learned.items():
                for result in results:
                    builder.add_learn_on_batch_results(result, name)
    return builder.finalize()


def _epochs(job: Job, config: PPOConfig, num_parts: int, of_parts: Map) -> dict[str, list[dict[str, Any]]]:
    """Learns from all minibatches of all epochs.

    Args:
        job: The policies.
        config: PPO's config.
        num_parts: The number of parts in which an encoder that policies share encodes a minibatch.
        of_parts: `map` over the parts, or a parallel version of it.

    Returns:
        The statistics of each minibatch, by policy.
    """
    policies, batches, obs, rng = job
    rows = len(next(iter(batches.values())))
    count = minibatches_per_epoch(batches, config.minibatch_size)
    updates_before = {name: policy.num_grad_updates for name, policy in policies.items()}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in batches}
    for _ in range(config.num_epochs):
        for chosen in np.array_split(rng.permutation(rows), count):
            given = {}
            for name, batch in batches.items():
                taken = tree.map_structure(lambda column: column[chosen], dict(batch))  # noqa: B023
                given[name] = SampleBatch(taken)
                given[name].num_grad_updates = updates_before[name]
            steps = {name: agent_steps(minibatch) for name, minibatch in given.items()}
            # A class that takes part in none of these games learns nothing from them.
            given = {name: minibatch for name, minibatch in given.items() if steps[name]}
            if obs is None:
                learned = {name: policies[name].learn_on_batch(minibatch) for name, minibatch in given.items()}
            else:
                seen = {key: column[chosen] for key, column in obs.items()}
                learned = learn_together(policies, given, seen, num_parts, of_parts)
            for name, result in learned.items():
                results[name].append({**result, NUM_AGENT_STEPS_TRAINED: steps[name]})
    return results


def learn_together(
    policies: Mapping[str, TeamPolicy], minibatches: Mapping[str, SampleBatch], obs: Mapping[str, np.ndarray],
    num_parts: int = 1, of_parts: Map = map,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Learns from the same rows with policies that share an encoder, which encodes them once.

    The loss is the sum of the policies' own. Each policy updates its own weights with RLlib's `learn_on_batch`; the
    gradients of all losses at the encoder's output then update the encoder, with the optimizer of the first policy.

    Args:
        policies: The policies.
        minibatches: The rows of each that learns from them.
        obs: What the encoder reads, and the critics' state.
        num_parts: The number of parts of the rows that are encoded apart, if there are as many rows. Default: 1.
        of_parts: `map` over the parts, or over the policies, or a parallel version of it. Default: `map`.
    """
    if not minibatches:
        return {}
    first, *_ = policies.values()
    for policy in policies.values():
        policy.model.train()
        policy.clear_gradients()
    features = encode(first.team, first.team.tensors(obs), num_parts, of_parts)  # (R, C, n, H)
    wanted = torch.zeros_like(features)
    places = obs["receivers"][0].tolist()
    state = {key: column for key, column in obs.items() if key not in ENCODED}

    def learn(name: str) -> dict[str, Any]:
        given = minibatches[name]
        receivers = given[SampleBatch.OBS]["receivers"]
        own = [places.index(place) for place in receivers[0]]
        heard = features.detach()[:, :, own].requires_grad_()
        given[SampleBatch.OBS] = {**state, "receivers": receivers, "features": heard}
        result = policies[name].learn_on_batch(given)
        assert heard.grad is not None
        wanted[:, :, own] = heard.grad
        return result

    share_critic = len({id(policy.model.net.critic) for policy in policies.values()}) < len(policies)
    learned = list((map if share_critic else of_parts)(learn, minibatches))
    weights = list(first.net.encoder.parameters())
    losses = [policies[name].model.tower_stats["total_loss"] for name in minibatches]
    gradients = torch.autograd.grad(features, weights, wanted, allow_unused=True, materialize_grads=True)
    first.update_encoder(gradients, torch.stack(losses).sum())
    return dict(zip(minibatches, learned, strict=True))


def _share_weights(jobs: Sequence[Job]) -> bool:
    """Whether any weights belong to the policies of several jobs."""
    owned = [{id(weight) for policy in job.policies.values() for weight in policy.model.parameters()} for job in jobs]
    return sum(map(len, owned)) > len(set().union(*owned))
