"""Who hears whom: links by distance and what arrives over chains of links."""

from __future__ import annotations

import numpy as np


def links(positions: np.ndarray, comm_range: float) -> np.ndarray:
    """Which adversaries are linked: those at most `comm_range` apart, and each with itself.

    Args:
        positions: (..., N, 2), in world units.
        comm_range: Euclidean range in world units; 0 links nobody to another, infinity links all.

    Returns:
        (..., N, N) booleans, symmetric, true on the diagonal.
    """
    num = positions.shape[-2]
    if comm_range == 0:
        return np.broadcast_to(np.eye(num, dtype=bool), (*positions.shape[:-2], num, num)).copy()
    offsets = positions[..., :, None, :] - positions[..., None, :, :]
    linked = np.square(offsets).sum(-1) <= np.square(comm_range)
    return linked | np.eye(num, dtype=bool)


def reach(linked: np.ndarray, hops: int) -> np.ndarray:
    """Whose messages arrive at whom over at most `hops` links.

    Args:
        linked: (..., N, N) booleans from `links`.
        hops: Links that information may cross in one step; 0 leaves everyone with itself.

    Returns:
        (..., N, N) booleans; entry [i, j] is true where j's message arrives at i.
    """
    arrived = np.broadcast_to(np.eye(linked.shape[-1], dtype=bool), linked.shape)
    for _ in range(min(hops, linked.shape[-1] - 1)):
        arrived = arrived @ linked
    return arrived


def heard_links(linked: np.ndarray, arrived: np.ndarray) -> np.ndarray:
    """The links that each receiver knows of: those between adversaries whose messages arrive.

    Args:
        linked: (..., N, N) booleans from `links`.
        arrived: (..., N, N) booleans from `reach`.

    Returns:
        (..., N, N, N) booleans; entry [i] is the link matrix that receiver i knows.
    """
    return linked[..., None, :, :] & arrived[..., :, :, None] & arrived[..., :, None, :]
