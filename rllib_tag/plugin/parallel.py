"""Learning on several threads: parts of a minibatch that are encoded at once, forward and backward."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from torch import Tensor

from rllib_tag.plugin.team_rows import TeamNet

# The largest number of parts of a minibatch that are encoded in parallel. More threads would mostly wait for the GIL.
MOST_PARTS = 4
ENCODED = ("messages", "history", "links", "receivers")  # what an encoder reads of an observation

Map = Callable[..., Iterable[Any]]  # such as `map`


def encode(team: TeamNet, obs: Mapping[str, Tensor], num_parts: int = 1, of_parts: Map = map) -> Tensor:
    """Returns the encoder's output for the receivers of the observations: (R, C, n, H).

    Args:
        team: The network.
        obs: The observations of R rows; the result has gradients for the encoder's weights, but none for these.
        num_parts: The number of parts of the rows that are encoded apart, if there are as many rows. Default: 1.
        of_parts: `map` over the parts, or a parallel version of it, which the backward pass then also uses.
            Default: `map`.
    """
    count = min(num_parts, len(obs["receivers"]))
    split = {key: torch.tensor_split(obs[key], count) for key in ENCODED}
    parts = [dict(zip(split, each, strict=True)) for each in zip(*split.values(), strict=True)]
    encoded: Tensor = _InParts.apply(of_parts, team.features, parts, *team.net.encoder.parameters())
    return encoded


class _InParts(torch.autograd.Function):
    """A function of parts, and its gradients for weights, which autograd would compute one part after the other."""

    @staticmethod
    def forward(
        ctx: Any, of_parts: Map, function: Callable[[Any], Tensor], parts: Sequence[Any], *weights: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            ctx.parts = list(of_parts(function, parts))
        ctx.of_parts, ctx.weights = of_parts, weights
        return torch.cat([part.detach() for part in ctx.parts])

    @staticmethod
    def backward(ctx: Any, *wanted: Tensor) -> tuple[Any, ...]:
        def gradients(part: Tensor, wanted: Tensor) -> Sequence[Tensor | None]:
            return torch.autograd.grad(part, ctx.weights, wanted, allow_unused=True)

        def total(grads: Sequence[Tensor | None]) -> Tensor | None:
            known = [grad for grad in grads if grad is not None]
            return torch.stack(known).sum(0) if known else None

        of_all = ctx.of_parts(gradients, ctx.parts, wanted[0].split([len(part) for part in ctx.parts]))
        return None, None, None, *(total(grads) for grads in zip(*of_all, strict=True))


def mapping(purpose: str, workers: int, threads: int) -> Map:
    """Returns `map`, or a parallel version of it that waits for all calls before it raises.

    Args:
        purpose: What the workers do. A job that waited for a part in the same pool could wait forever.
        workers: How many calls to run at once.
        threads: The number of threads of torch that each uses.
    """
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
    """Returns a pool's workers, which are kept between iterations, because they reuse the memory that they freed."""
    return ThreadPoolExecutor(workers, purpose, torch.set_num_threads, (threads,))


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Sets torch's number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpus_for_learning(config: AlgorithmConfig) -> int:
    """Returns how many CPUs of this machine may learn: those of env runners too, which wait meanwhile."""
    main, runners = config.num_cpus_for_main_process, config.num_env_runners * config.num_cpus_per_env_runner
    if config.enable_rl_module_and_learner and config.num_cpus_per_learner != "auto":
        main = max(main, config.num_cpus_per_learner)  # RLlib reserves the larger
    cpus = min(int(main + runners), os.cpu_count() or 1)
    return max(torch.get_num_threads(), cpus)
