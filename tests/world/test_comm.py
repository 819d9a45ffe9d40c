"""Links and reach against the plainest possible versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_tag.world.comm import hear, links, reach


def plain_links(positions: np.ndarray, comm_range: float) -> np.ndarray:
    num = len(positions)
    return np.array(
        [[i == j or (comm_range > 0 and np.linalg.norm(positions[i] - positions[j]) <= comm_range) for j in range(num)]
         for i in range(num)]
    )  # fmt: skip


def plain_reach(linked: np.ndarray, hops: int) -> np.ndarray:
    out = np.zeros_like(linked)
    for start in range(len(linked)):
        seen, edge = {start}, {start}
        for _ in range(hops):
            edge = {j for i in edge for j in range(len(linked)) if linked[i, j]} - seen
            seen |= edge
        out[start, list(seen)] = True
    return out


@given(st.integers(1, 7), st.floats(0, 3), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_links_and_reach_equal_the_plain_versions(num: int, comm_range: float, hops: int, seed: int) -> None:
    positions = np.random.default_rng(seed).uniform(-1, 1, (num, 2))
    linked = links(positions, comm_range)
    np.testing.assert_array_equal(linked, plain_links(positions, comm_range))
    arrived = reach(linked, hops)
    np.testing.assert_array_equal(arrived, plain_reach(linked, hops))
    assert (linked == linked.T).all()
    known = hear(np.zeros((1, num, 1)), np.ones(1, bool), linked, hops)["links"] > 0
    assert known.shape == (num, num, num)
    for i in range(num):
        for j, k in np.argwhere(known[i]):
            assert arrived[i, j]
            assert arrived[i, k]
            assert linked[j, k]
        assert known[i].sum() == linked[np.ix_(arrived[i], arrived[i])].sum()


def test_a_chain_carries_hop_by_hop() -> None:
    linked = links(np.array([[0.0, 0], [0.9, 0], [1.8, 0], [9, 9]]), 1.0)
    assert reach(linked, 1)[0].tolist() == [True, True, False, False]
    assert reach(linked, 2)[0].tolist() == [True, True, True, False]
    assert reach(linked, 99)[3].tolist() == [False, False, False, True]


@pytest.mark.parametrize(("comm_range", "linked"), [(0, 3), (np.inf, 9), (0.5, 5)])
def test_the_ends_of_the_range(comm_range: float, linked: int) -> None:
    positions = np.array([[0.0, 0.0], [0.0, 0.5], [5.0, 5.0]])
    assert links(positions, comm_range).sum() == linked


def test_range_zero_parts_adversaries_in_the_same_place() -> None:
    assert links(np.zeros((5, 2)), 0).sum() == 5


def test_a_batch_equals_a_loop() -> None:
    positions = np.random.default_rng(0).uniform(-1, 1, (11, 5, 2))
    linked = links(positions, 0.7)
    arrived = reach(linked, 2)
    for i in range(11):
        np.testing.assert_array_equal(linked[i], links(positions[i], 0.7))
        np.testing.assert_array_equal(arrived[i], reach(linked[i], 2))


def test_what_is_heard_has_arrived_in_this_episode() -> None:
    B, T, N, F = 3, 4, 5, 7
    rng = np.random.default_rng(0)
    window, linked = rng.normal(size=(B, T, N, F)), links(rng.uniform(-1, 1, (B, N, 2)), 0.7)
    num_valid = np.array([1, 2, 4])
    ages = np.arange(T - 1, -1, -1)
    heard = hear(window, ages < num_valid[:, None], linked, 2)
    arrived = reach(linked, 2)
    for b in range(B):
        alone = hear(window[b], ages < num_valid[b], linked[b], 2)
        for key, value in alone.items():
            np.testing.assert_array_equal(heard[key][b], value)
        for i in range(N):
            assert heard["self"][b, i].tolist() == np.eye(N)[i].tolist()
            for j in range(N):
                for t in range(T):
                    valid = arrived[b, i, j] and t >= T - num_valid[b]
                    assert heard["message_mask"][b, i, j, t] == valid
                    np.testing.assert_array_equal(heard["messages"][b, i, j, t], window[b, t, j] * valid)
