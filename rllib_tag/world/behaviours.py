"""Scripted behaviours: prey that moves at random or flees, and adversaries that chase."""

from __future__ import annotations

import numpy as np

CHASE_LEAD_S = 0.2  # how far ahead a chaser predicts, in seconds of world time; an MPE step lasts 0.1 s
WALL_START = 0.6  # coordinate from which evasive prey avoids the edge of the arena, which is at 1


def random_actions(rng: np.random.Generator, shape: tuple[int, ...], continuous: bool) -> np.ndarray:
    """Samples uniform actions: integers in 0..4 of this shape, or float32 in [0, 1) with a trailing axis of 5."""
    if continuous:
        return rng.random((*shape, 5), dtype=np.float32)
    return rng.integers(0, 5, shape)


def evasive_actions(
    positions: np.ndarray, adversaries: np.ndarray, landmarks: np.ndarray, continuous: bool
) -> np.ndarray:
    """Flees from the adversaries and stays inside the arena.

    The push is the sum of (p - q) / |p - q|^3 over the adversaries, plus a twentieth of the same sum over the
    landmarks, plus a pull towards the centre that grows with the cube of the distance beyond `WALL_START`.

    Args:
        positions: (..., y, 2) of the good agents.
        adversaries: (..., x, 2).
        landmarks: (..., z, 2).
        continuous: Whether to return continuous actions.

    Returns:
        Actions in the format of `steer`.
    """
    push = _repulsion(positions, adversaries) + 0.05 * _repulsion(positions, landmarks)
    beyond = np.maximum(np.abs(positions) - WALL_START, 0) / (1 - WALL_START)
    return steer(push - 4 * np.sign(positions) * beyond**3, continuous)


def _repulsion(positions: np.ndarray, others: np.ndarray) -> np.ndarray:
    offsets = positions[..., :, None, :] - others[..., None, :, :]  # (..., y, x, 2)
    distances = np.maximum(np.linalg.norm(offsets, axis=-1, keepdims=True), 1e-3)
    return (offsets / distances**3).sum(-2)


def chase_actions(
    positions: np.ndarray,
    velocities: np.ndarray,
    targets: np.ndarray,
    target_velocities: np.ndarray,
    continuous: bool,
) -> np.ndarray:
    """Chases the predicted position of the nearest target, corrected for the chaser's own drift.

    Args:
        positions: (..., n, 2) of the chasers.
        velocities: (..., n, 2) of the chasers.
        targets: (..., y, 2) of the good agents.
        target_velocities: (..., y, 2) of the good agents.
        continuous: Whether to return continuous actions.

    Returns:
        Actions in the format of `steer`.
    """
    offsets = targets[..., None, :, :] - positions[..., :, None, :]  # (..., n, y, 2)
    nearest = np.linalg.norm(offsets, axis=-1).argmin(-1)[..., None, None]  # (..., n, 1, 1)
    way = np.take_along_axis(offsets, nearest, axis=-2)[..., 0, :]
    speeds = np.take_along_axis(target_velocities[..., None, :, :], nearest, axis=-2)[..., 0, :]  # (..., n, 2)
    return steer(way + CHASE_LEAD_S * (speeds - velocities), continuous)


def steer(direction: np.ndarray, continuous: bool) -> np.ndarray:
    """Returns MPE actions that push along a direction.

    Discrete: 1 left, 2 right, 3 down, 4 up, along the larger component. Continuous: (no-op, left, right, down, up),
    with the direction scaled so that its larger component is 1.

    Args:
        direction: (..., 2).
        continuous: Whether to return continuous actions.

    Returns:
        (...) integers in 1..4, or (..., 5) float32 in [0, 1].
    """
    if not continuous:
        vertical = np.abs(direction[..., 1]) > np.abs(direction[..., 0])
        component = np.where(vertical, direction[..., 1], direction[..., 0])
        return 1 + 2 * vertical + (component > 0)
    unit = direction / np.maximum(np.abs(direction).max(-1, keepdims=True), 1e-9)
    out = np.zeros((*direction.shape[:-1], 5), np.float32)
    out[..., [2, 4]] = np.maximum(unit, 0)
    out[..., [1, 3]] = np.maximum(-unit, 0)
    return out
