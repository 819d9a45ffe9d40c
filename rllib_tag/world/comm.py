"""Who hears whom: links by distance, and messages that travel over chains of links."""

from __future__ import annotations

import numpy as np


def links(positions: np.ndarray, comm_range: float | np.ndarray) -> np.ndarray:
    """Returns which agents are linked: those at most `comm_range` apart, and each agent with itself.

    Args:
        positions: (..., N, 2), in world units.
        comm_range: Euclidean range in world units, or the range of each game, (...); 0 links each agent only to itself,
            infinity links all agents.

    Returns:
        (..., N, N) booleans, symmetric, true on the diagonal.
    """
    offsets = positions[..., :, None, :] - positions[..., None, :, :]
    within = np.asarray(comm_range)[..., None, None]
    linked = (np.square(offsets).sum(-1) <= np.square(within)) & (within > 0)
    return linked | np.eye(positions.shape[-2], dtype=bool)


def reach(linked: np.ndarray, hops: int) -> np.ndarray:
    """Returns whose messages reach whom over at most `hops` links.

    Args:
        linked: (..., N, N) booleans from `links`.
        hops: Links that information may cross in one step; with 0, each agent hears only itself.

    Returns:
        (..., N, N) booleans; entry [i, j] is true where j's message reaches i.
    """
    arrived = np.broadcast_to(np.eye(linked.shape[-1], dtype=bool), linked.shape)
    for _ in range(min(hops, linked.shape[-1] - 1)):
        arrived = arrived @ linked
    return arrived


def hear(window: np.ndarray, valid: np.ndarray, linked: np.ndarray, hops: int) -> dict[str, np.ndarray]:
    """Returns what each of N receivers hears: the messages that reach it, and the links between their senders.

    Args:
        window: (..., T, N, F) the most recent messages, oldest first.
        valid: (..., T) booleans: which of them belong to the current episode.
        linked: (..., N, N) booleans from `links`.
        hops: Links that information may cross in one step.

    Returns:
        float32 arrays with the receivers' axis N after the leading axes: `messages` (..., N, N, T, F), zero where
        none arrived, `message_mask` (..., N, N, T), `links` (..., N, N, N) and `self` (..., N, N), one-hot.
    """
    arrived = reach(linked, hops)
    mask = arrived[..., None] & valid[..., None, None, :]  # (..., N, N, T)
    said = np.moveaxis(window, -3, -2)  # (..., N, T, F)
    known = linked[..., None, :, :] & arrived[..., :, :, None] & arrived[..., :, None, :]
    return {
        "messages": said[..., None, :, :, :] * mask[..., None].astype(np.float32),
        "message_mask": mask.astype(np.float32),
        "links": known.astype(np.float32),
        "self": np.broadcast_to(np.eye(linked.shape[-1], dtype=np.float32), linked.shape),
    }
