"""Conversion of team states, which all receivers of a policy share, to the observations of single receivers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rllib_tag.nn.temporal import valid_steps, windows

Observation = Mapping[str, Tensor]


def reach(links: Tensor, comm_hops: int) -> Tensor:
    """Returns whose messages reach whom over at most `comm_hops` links: `world.comm.reach` for tensors.

    Args:
        links: (..., N, N) booleans, [receiver, sender], true on the diagonal.
        comm_hops: Links that information may cross in one step.

    Returns:
        (..., N, N) booleans, [receiver, sender].
    """
    N = links.shape[-1]
    arrived = torch.eye(N, dtype=torch.bool, device=links.device).expand_as(links)
    for _ in range(min(comm_hops, N - 1)):
        arrived = arrived.float() @ links.float() > 0
    return arrived


def between(links: Tensor, arrived: Tensor) -> Tensor:
    """Returns the links (..., N, N) between senders whose messages arrived, (..., N): those a receiver knows of."""
    return links & arrived.unsqueeze(-1) & arrived.unsqueeze(-2)


def receiver_rows(obs: Observation, receivers: Tensor, comm_hops: int) -> dict[str, Tensor]:
    """Returns what each receiver observes of team states, one row per receiver.

    Args:
        obs: `messages` (R, C + T - 1, N, F) as sent in consecutive steps, `history` (R, C), how many of the last T
            messages belong to the current episode, at least 1, `links` (R, C, N, N), and optionally the critics'
            state, (R, C, K, D) by kind of entity.
        receivers: (n,) the indices of team members.
        comm_hops: Links that information may cross in one step.

    Returns:
        R * C * n rows with the keys of `CommEnv`'s observations.
    """
    links = obs["links"] > 0
    R, C, N, _ = links.shape
    n = len(receivers)
    T = obs["messages"].shape[1] - C + 1
    arrived = reach(links, comm_hops)[:, :, receivers]  # (R, C, n, N)
    mask = arrived.unsqueeze(-1) & valid_steps(obs["history"], T)[:, :, None, None]  # (R, C, n, N, T)
    out = {
        "messages": windows(obs["messages"], T).unsqueeze(2) * mask.unsqueeze(-1),  # (R, C, n, N, T, F)
        "message_mask": mask.float(),
        "links": between(links.unsqueeze(2), arrived).float(),
        "self": torch.eye(N, device=links.device)[receivers].expand(R, C, n, N),
    }
    for key in obs.keys() - {"messages", "history", "links", "receivers"}:
        out[key] = obs[key].unsqueeze(2).expand(R, C, n, *obs[key].shape[2:])
    return {key: value.flatten(0, 2) for key, value in out.items()}


def at(values: Tensor, places: Tensor | None) -> Tensor:
    """Returns the values (S, N, ...) at places (n,), or (S, n) if they differ, or all if None: (S, n, ...)."""
    if places is None:
        return values
    if places.ndim == 1:
        return values[:, places]
    return values[torch.arange(len(values), device=values.device).unsqueeze(1), places]
