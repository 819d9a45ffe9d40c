"""How policies learn from rows that hold team states: epochs, minibatches, and encoders that policies share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import torch
import tree
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.utils.metrics import NUM_AGENT_STEPS_TRAINED
from torch import Tensor

from rllib_tag.plugin.old_api_stack.team_policy import TeamPolicy
from rllib_tag.plugin.ray_internals import LearnerInfoBuilder
from rllib_tag.plugin.team_rows import agent_steps, minibatches_per_epoch, sharing

ENCODED = ("messages", "history", "links", "receivers")  # what an encoder reads of an observation
# The largest number of parts of a minibatch that are encoded in parallel. More threads would mostly wait for the GIL.
MOST_PARTS = 4

Map = Callable[..., Iterable[Any]]  # such as `map`


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
    policies: Mapping[str, TeamPolicy], batches: Mapping[str, SampleBatch], trained: Container[str], config: PPOConfig,
    cpus: int,
) -> dict[str, Any]:  # fmt: skip
    """Trains policies for all epochs.

    Args:
        policies: All policies, by name.
        batches: The batch of each.
        trained: The names of those to train.
        config: PPO's config.
        cpus: How many threads to use, or as many as torch uses if that is more.

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
    cpus = max(torch.get_num_threads(), cpus)
    on_cpus = all(policy.device.type == "cpu" for policy in policies.values())
    num_parts = min(MOST_PARTS, cpus) if on_cpus and any(job.obs is not None for job in jobs) else 1
    threads = max(1, cpus // (at_once * num_parts))
    of_jobs, of_parts = _mapping("jobs", at_once, threads), _mapping("parts", num_parts, threads)
    builder = LearnerInfoBuilder()
    with _threads(threads):
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
    split = {key: np.array_split(obs[key], min(num_parts, len(obs[key]))) for key in ENCODED}
    parts = [dict(zip(split, each, strict=True)) for each in zip(*split.values(), strict=True)]
    encoded = list(of_parts(first.features, parts))  # each (rows of the part, C, n, H)
    features = torch.cat([part.detach() for part in encoded])  # (R, C, n, H)
    wanted = torch.zeros_like(features)
    places = obs["receivers"][0].tolist()
    state = {key: column for key, column in obs.items() if key not in ENCODED}

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
    learned = list((map if share_critic else of_parts)(learn, minibatches))
    weights = list(first.model.net.encoder.parameters())

    def gradients(part: Tensor, wanted: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(part, weights, wanted, allow_unused=True, materialize_grads=True)

    of_all = of_parts(gradients, encoded, wanted.split([len(part) for part in encoded]))
    losses = [policies[name].model.tower_stats["total_loss"] for name in minibatches]
    first.update_encoder([torch.stack(each).sum(0) for each in zip(*of_all, strict=True)], torch.stack(losses).sum())
    return dict(zip(minibatches, learned, strict=True))


def _share_weights(jobs: Sequence[Job]) -> bool:
    """Whether any weights belong to the policies of several jobs."""
    owned = [{id(weight) for policy in job.policies.values() for weight in policy.model.parameters()} for job in jobs]
    return sum(map(len, owned)) > len(set().union(*owned))


def _mapping(purpose: str, workers: int, threads: int) -> Map:
    """Returns `map`, or a parallel version of it that waits for all calls before it raises."""
    if workers == 1:
        return map
    pool = _pool(purpose, workers, threads)

    def in_parallel(function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
        calls = [pool.submit(function, *each) for each in zip(*arguments, strict=True)]
        wait(calls)  # the pool outlives an error, so no call may go on after it
        return [call.result() for call in calls]

    return in_parallel


@functools.cache
def _pool(purpose: str, workers: int, threads: int) -> ThreadPoolExecutor:
    """Returns workers for one purpose, each of which uses a number of threads in torch.

    They are kept between iterations, because they reuse the memory that they freed. Each purpose has its own: a job
    that waited for a part in the same pool could wait forever.
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
