from __future__ import annotations

import numpy as np
import pytest

from rllib_tag.world.behaviours import chase_actions, evasive_actions, random_actions, steer

DIRECTIONS = np.array([[-2.0, 1], [2, 1], [0.1, -3], [0.1, 3]])


def test_discrete_steering_takes_mpes_numbers() -> None:
    assert steer(DIRECTIONS, False).tolist() == [1, 2, 3, 4]


def test_continuous_steering_pushes_where_discrete_does() -> None:
    forces = steer(DIRECTIONS, True)
    assert forces.shape == (4, 5)
    assert forces.dtype == np.float32
    assert ((forces >= 0) & (forces <= 1)).all()
    push = np.stack([forces[:, 2] - forces[:, 1], forces[:, 4] - forces[:, 3]], axis=1)
    np.testing.assert_allclose(push, DIRECTIONS / np.abs(DIRECTIONS).max(1, keepdims=True), atol=1e-6)


def test_standing_still_is_an_action_too() -> None:
    assert np.isfinite(steer(np.zeros((3, 2)), True)).all()


@pytest.mark.parametrize("continuous", [False, True])
def test_random_actions_repeat_with_the_seed(continuous: bool) -> None:
    first, again = (random_actions(np.random.default_rng(7), (3,), continuous) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == ((3, 5) if continuous else (3,))


def test_evasive_prey_runs_away_and_comes_back_inside() -> None:
    hunter = np.array([[0.3, 0.0]])
    assert evasive_actions(np.array([[0.0, 0.0]]), hunter, np.zeros((0, 2)), False).tolist() == [1]
    assert evasive_actions(np.array([[0.99, 0.0]]), np.array([[9.0, 9.0]]), np.zeros((0, 2)), False).tolist() == [1]


def test_chasers_run_at_the_nearest_and_lead_it() -> None:
    positions, still = np.array([[0.0, 0.0], [0.0, 1.0]]), np.zeros((2, 2))
    targets = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert chase_actions(positions, still, targets, np.zeros((2, 2)), False).tolist() == [2, 4]
    fleeing_up = np.array([[0.0, 9.0], [0.0, 0.0]])
    assert chase_actions(positions, still, targets, fleeing_up, False)[0] == 4
