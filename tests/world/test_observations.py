"""Sizes and views against mpe2 itself and its true state."""

from __future__ import annotations

import numpy as np
import pytest
from mpe2 import simple_tag_v3

from rllib_tag.world.observations import MessageLayout, class_view, decode, messages, raw_size
from rllib_tag.world.roster import CLASS_A, CLASS_B, Roster

GRID = [(x, y, z) for x in (1, 2, 4, 7) for y in (1, 2, 3) for z in (0, 2, 5)]


def play(x: int, y: int, z: int, steps: int = 7):
    env = simple_tag_v3.parallel_env(num_good=y, num_adversaries=x, num_obstacles=z, max_cycles=50)
    observations, _ = env.reset(seed=3)
    rng = np.random.default_rng(5)
    for _ in range(steps):
        observations, *_ = env.step({agent: int(rng.integers(5)) for agent in env.agents})
    return env.unwrapped.world, observations


@pytest.mark.parametrize(("x", "y", "z"), GRID)
def test_sizes_are_mpes(x: int, y: int, z: int) -> None:
    env = simple_tag_v3.parallel_env(num_good=y, num_adversaries=x, num_obstacles=z)
    assert (
        env.observation_space("adversary_0").shape
        == (raw_size(x, y, z, good=False),)
        == (4 + 2 * z + 2 * (x - 1) + 4 * y,)
    )
    assert (
        env.observation_space("agent_0").shape == (raw_size(x, y, z, good=True),) == (4 + 2 * z + 2 * x + 4 * (y - 1),)
    )


@pytest.mark.parametrize(("x", "y", "z"), GRID)
def test_views_show_the_true_world(x: int, y: int, z: int) -> None:
    world, observations = play(x, y, z)
    num_a = x // 2
    roster = Roster(num_a, x - num_a, y)
    hunters, prey = world.agents[:x], world.agents[x:]
    landmarks = np.array([mark.state.p_pos for mark in world.landmarks]).reshape(-1)
    seen = np.concatenate([np.concatenate([agent.state.p_pos, agent.state.p_vel]) for agent in prey])
    for name, agent in zip(roster.adversaries, hunters, strict=True):
        fields = decode(observations[name], roster, z, good=False)
        own = np.concatenate([agent.state.p_pos, agent.state.p_vel])
        view_a, view_b = class_view(fields, CLASS_A), class_view(fields, CLASS_B)
        assert view_a.shape == (6 + 2 * z,)
        assert view_b.shape == (6 + 4 * y,)
        np.testing.assert_allclose(view_a, [*own, *landmarks, 1, 0], atol=1e-6)
        np.testing.assert_allclose(view_b, [*own, *seen, 0, 1], atol=1e-6)
        others = [other.state.p_pos - agent.state.p_pos for other in hunters if other is not agent]
        np.testing.assert_allclose(fields.adversaries.reshape(-1), np.reshape(others, -1), atol=1e-6)


@pytest.mark.parametrize(("x", "y", "z"), [(3, 1, 2), (2, 3, 0), (5, 2, 7)])
def test_good_agents_fields_show_the_true_world(x: int, y: int, z: int) -> None:
    world, observations = play(x, y, z)
    roster = Roster(1, x - 1, y)
    for i, name in enumerate(roster.good_agents):
        me = world.agents[x + i]
        fields = decode(observations[name], roster, z, good=True)
        others = [agent for agent in world.agents[x:] if agent is not me]
        np.testing.assert_allclose(fields.velocity, me.state.p_vel, atol=1e-6)
        np.testing.assert_allclose(fields.position, me.state.p_pos, atol=1e-6)
        hunters = np.array([agent.state.p_pos for agent in world.agents[:x]])
        np.testing.assert_allclose(fields.adversaries + fields.position, hunters, atol=1e-6)
        assert fields.good.shape == (y - 1, 2)
        np.testing.assert_allclose(
            fields.good_velocities, np.array([agent.state.p_vel for agent in others]).reshape(-1, 2), atol=1e-6
        )


@pytest.mark.parametrize("full", [False, True])
def test_messages_are_views_in_one_layout(full: bool) -> None:
    x, y, z = 5, 3, 2
    roster = Roster(2, 3, y)
    _, observations = play(x, y, z)
    raw = np.stack([observations[name] for name in roster.adversaries])
    layout = MessageLayout(y, z)
    sent = messages(raw, roster, z, full_observation=full)
    assert sent.shape == (x, layout.width) == (x, 8 + 2 * z + 4 * y)
    assert sent.dtype == raw.dtype
    for i in range(x):
        fields = decode(raw[i], roster, z, good=False)
        a, b = class_view(fields, CLASS_A), class_view(fields, CLASS_B)
        is_a = i < 2
        np.testing.assert_array_equal(sent[i, layout.own], a[:4])
        np.testing.assert_array_equal(sent[i, layout.landmarks], a[4:-2] if is_a or full else 0 * a[4:-2])
        np.testing.assert_array_equal(sent[i, layout.good], b[4:-2] if not is_a or full else 0 * b[4:-2])
        assert sent[i, layout.sees_landmarks] == float(is_a or full)
        assert sent[i, layout.sees_good] == float(not is_a or full)
        np.testing.assert_array_equal(sent[i, layout.one_hot], (a if is_a else b)[-2:])


def test_a_batch_equals_a_loop() -> None:
    roster, z = Roster(2, 1, 2), 5
    raw = np.random.default_rng(0).normal(size=(7, 3, raw_size(3, 2, z, good=False)))
    together = messages(raw, roster, z)
    np.testing.assert_array_equal(together, np.stack([messages(row, roster, z) for row in raw]))


def test_another_teams_observation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 16 numbers for this team, got 17"):
        decode(np.zeros(17), Roster(1, 2, 1), 2, good=False)
