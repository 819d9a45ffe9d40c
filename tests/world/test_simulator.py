"""SimpleTagVec against mpe2, environment by environment."""

from __future__ import annotations

import numpy as np
import pytest
from mpe2 import simple_tag_v3

from rllib_tag import SimpleTagVec
from rllib_tag.errors import ConfigError

GAMES = [
    {"num_good": 1, "num_adversaries": 4, "num_obstacles": 2},
    {"num_good": 1, "num_adversaries": 3, "num_obstacles": 0},
    {"num_good": 3, "num_adversaries": 7, "num_obstacles": 5},
    {"num_good": 4, "num_adversaries": 16, "num_obstacles": 2},
    {"num_good": 2, "num_adversaries": 1, "num_obstacles": 1},
]


def actions_for(agents: list[str], num: int, continuous: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if continuous:
        return {agent: rng.random((num, 5), dtype=np.float32) for agent in agents}
    return {agent: rng.integers(0, 5, num) for agent in agents}


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("game", GAMES, ids=str)
def test_it_is_mpes_own_game_over_automatic_resets(game: dict, continuous: bool) -> None:
    B, steps, max_cycles = 3, 100, 37
    options = {**game, "continuous_actions": continuous, "max_cycles": max_cycles}
    ours = SimpleTagVec(B, **options)
    theirs = [simple_tag_v3.parallel_env(**options) for _ in range(B)]
    assert ours.possible_agents == theirs[0].possible_agents
    for agent in ours.agents:
        assert ours.action_spaces[agent] == theirs[0].action_space(agent)
        assert ours.observation_spaces[agent] == theirs[0].observation_space(agent)
    rng = np.random.default_rng(7)
    observations, _ = ours.reset(seed=[5, 11, 2**31])
    expected = [env.reset(seed=seed)[0] for env, seed in zip(theirs, [5, 11, 2**31], strict=True)]
    for agent in ours.agents:
        np.testing.assert_array_equal(observations[agent], [each[agent] for each in expected])
        assert observations[agent].dtype == np.float32
    contacts = 0
    for step in range(1, steps + 1):
        actions = actions_for(ours.agents, B, continuous, rng)
        observations, rewards, terminations, truncations, infos = ours.step(actions)
        done = step % max_cycles == 0
        for i, env in enumerate(theirs):
            obs, reward, _, truncated, _ = env.step({agent: actions[agent][i] for agent in ours.agents})
            for agent in ours.agents:
                assert rewards[agent][i] == pytest.approx(reward[agent], abs=1e-9)
                if agent.startswith("adversary"):
                    assert rewards[agent][i] == reward[agent]
                    contacts += reward[agent]
                assert truncations[agent][i] == truncated[agent] == done
                assert not terminations[agent][i]
                last = infos[agent]["final_observation"] if done else observations[agent]
                np.testing.assert_allclose(last[i], obs[agent], rtol=0, atol=1e-6)
            if done:
                env.reset()
            world = env.unwrapped.world
            places = [entity.state.p_pos for entity in world.agents]
            speeds = [entity.state.p_vel for entity in world.agents]
            np.testing.assert_allclose(ours.positions[i], places, rtol=0, atol=1e-9)
            np.testing.assert_allclose(ours.velocities[i], speeds, rtol=0, atol=1e-9)
            np.testing.assert_array_equal(
                ours.landmarks[i], np.reshape([mark.state.p_pos for mark in world.landmarks], (-1, 2))
            )
        assert ("final_observation" in infos["adversary_0"]) == done
    if game["num_adversaries"] == 16:
        assert contacts > 0


def test_single_environments_end_on_their_own() -> None:
    env = SimpleTagVec(5, max_cycles=7)
    env.reset(seed=[0, 1, 2, 3, 4])
    env.steps[2] = 6
    before = env.positions.copy()
    rng = np.random.default_rng(0)
    *_, truncations, infos = env.step(actions_for(env.agents, 5, False, rng))
    assert truncations["agent_0"].tolist() == [False, False, True, False, False]
    assert infos["agent_0"]["ended"].tolist() == truncations["agent_0"].tolist()
    assert env.steps.tolist() == [1, 1, 0, 1, 1]
    moved = np.abs(env.positions - before).max((1, 2)) > 0.11
    assert moved.tolist() == [False, False, True, False, False]


def test_equal_seeds_repeat_and_none_goes_on() -> None:
    first, again = SimpleTagVec(3), SimpleTagVec(3)
    one, _ = first.reset(seed=[7, 7, 8])
    two, _ = again.reset(seed=[7, 7, 8])
    np.testing.assert_array_equal(one["agent_0"], two["agent_0"])
    np.testing.assert_array_equal(one["agent_0"][0], one["agent_0"][1])
    assert (one["agent_0"][0] != one["agent_0"][2]).any()
    on, _ = first.reset(seed=[None, 7, None])
    assert (on["agent_0"][0] != one["agent_0"][0]).any()
    np.testing.assert_array_equal(on["agent_0"][1], one["agent_0"][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs: expected an integer of at least 1"),
        ({"num_envs": 2, "num_good": 0, "num_adversaries": 0}, "at least one agent"),
        ({"num_envs": 2, "continuous_actions": 1}, "continuous_actions: expected true or false"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimpleTagVec(**options)


def test_one_seed_stands_for_consecutive_ones() -> None:
    env = SimpleTagVec(3)
    (first, _), (again, _) = env.reset(seed=5), env.reset(seed=[5, 6, 7])
    for agent in env.agents:
        np.testing.assert_array_equal(first[agent], again[agent])


def test_bad_actions_and_seeds() -> None:
    env = SimpleTagVec(3)
    good = {agent: np.zeros(3, int) for agent in env.agents}
    for bad, message in (
        ({"agent_0": np.zeros(2, int)}, r"expected shape \(3,\) for agent_0, got \(2,\)"),
        ({"agent_0": np.zeros(3)}, "expected integers in 0..4"),
        ({"agent_0": np.array([0, 5, 1])}, "expected integers in 0..4"),
    ):
        with pytest.raises(ConfigError, match=message):
            env.step({**good, **bad})
    with pytest.raises(ConfigError, match="expected one for every agent, got none for agent_0"):
        env.step({agent: good[agent] for agent in env.agents[:-1]})
    with pytest.raises(ConfigError, match="expected one for each of the 3 environments, got 2"):
        env.reset(seed=[1, 2])
