"""What env runners of both of RLlib's API stacks compute from what was played."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_tag.plugin.fragments import generalized_advantages, stretch_of


def test_advantages_are_sums_of_discounted_errors() -> None:
    """Against the plain double sum, with trajectories that end at different steps."""
    B, T, n, gamma, lam = 2, 7, 3, 0.9, 0.8
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(B, T, n)), rng.normal(size=(B, T, n))
    following, is_cut = rng.normal(size=(B, T, n)), np.zeros((B, T), bool)
    parts = {0: ((0, 3), (4, 6)), 1: ((0, 0), (1, 6))}
    for game, ranges in parts.items():
        is_cut[game, [end for _, end in ranges]] = True
    out = generalized_advantages(rewards, values, following, is_cut, gamma, lam)
    errors = rewards + gamma * following - values
    for game, ranges in parts.items():
        for start, end in ranges:
            for t in range(start, end + 1):
                expected = sum((gamma * lam) ** (k - t) * errors[game, k] for k in range(t, end + 1))
                np.testing.assert_allclose(out[game, t], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "largest", "minibatch_size", "expected"),
    [(100, 2, 1600, 10), (7, 2, 1600, 7), (11, 2, 1600, 1), (100, 3, 17, 5), (100, 3, 2, 1), (100, 3, None, 10)],
)
def test_rows_divide_fragments_and_fit_into_minibatches(
    length: int, largest: int, minibatch_size: int | None, expected: int
) -> None:
    assert stretch_of(length, largest, minibatch_size) == expected
