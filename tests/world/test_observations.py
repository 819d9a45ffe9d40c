"""Sizes and fields against mpe2 itself and its true state."""

from __future__ import annotations

import numpy as np
import pytest
from mpe2 import simple_tag_v3

from rllib_tag.world.observations import decode, raw_size
from rllib_tag.world.roster import Roster

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
def test_fields_show_the_true_world(x: int, y: int, z: int) -> None:
    world, observations = play(x, y, z)
    hunters, prey = world.agents[:x], world.agents[x:]
    for name, agent in zip(Roster(x, 0, y).adversaries, hunters, strict=True):
        fields = decode(observations[name], Roster(x, 0, y), z, good=False)
        position = agent.state.p_pos
        np.testing.assert_allclose(fields.position, position, atol=1e-6)
        np.testing.assert_allclose(fields.velocity, agent.state.p_vel, atol=1e-6)
        for found, others in (
            (fields.landmarks, world.landmarks),
            (fields.adversaries, [other for other in hunters if other is not agent]),
            (fields.good, prey),
        ):
            offsets = np.array([other.state.p_pos - position for other in others]).reshape(-1, 2)
            np.testing.assert_allclose(found, offsets, atol=1e-6)
        np.testing.assert_allclose(fields.good_velocities, [agent.state.p_vel for agent in prey], atol=1e-6)


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


def test_another_teams_observation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 16 numbers in this game, got 17"):
        decode(np.zeros(17), Roster(1, 2, 1), 2, good=False)
