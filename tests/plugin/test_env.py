"""TagEnv against PettingZoo's and RLlib's own checks, and against MPE's true state."""

from __future__ import annotations

import inspect
import itertools
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import play_on, random_actions
from mpe2 import simple_tag_v3
from pettingzoo.test import parallel_api_test, parallel_seed_test
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.weights import Exported, build_net, save_exported
from rllib_tag.plugin.env import STATS_KEY, TagEnv
from rllib_tag.world.prey import Prey

GAMES = [
    {},
    {"num_class_a": 3, "num_class_b": 2, "num_good": 2, "num_obstacles": 0, "history_length": 5},
    {"num_class_a": 0, "num_class_b": 1, "continuous_actions": True},
    {"num_class_a": 1, "num_class_b": 0, "good_policy": "evasive", "comm_range": float("inf")},
    {"good_policy": "learned", "num_good": 3, "full_observation": True, "comm_hops": 0},
]
DRAWN = {"num_class_a": [0, 1, 3], "num_class_b": [0, 2], "num_good": [1, 2], "num_obstacles": [0, 3]}


@pytest.mark.parametrize("game", [*GAMES, DRAWN])
def test_rllibs_own_checks_pass(game: dict) -> None:
    check_multiagent_environments(TagEnv(game))


@pytest.mark.parametrize("game", [*GAMES, DRAWN])
def test_pettingzoos_own_tests_pass_on_what_is_wrapped(game: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests warn of their own taste in observations
        parallel_api_test(TagEnv({**game, "max_cycles": 17}).par_env, num_cycles=40)
        parallel_seed_test(lambda: TagEnv({**game, "max_cycles": 17}).par_env, num_cycles=20)


@pytest.mark.parametrize("game", GAMES)
def test_observations_fit_their_spaces_in_a_stable_order(game: dict) -> None:
    env = TagEnv(game)
    expected = [f"adversary_{i}" for i in range(env.roster.num_adversaries)]
    if game.get("good_policy") == "learned":
        expected += ["agent_0", "agent_1", "agent_2"]
    assert env.possible_agents == expected
    for observations in play_on(env, 6):
        assert list(observations) == expected
        for agent, obs in observations.items():
            assert env.observation_spaces[agent].contains(obs)
    assert list(env.observation_space.spaces) == expected
    assert env.get_action_space("adversary_0") == env.action_spaces["adversary_0"]


@pytest.mark.parametrize("game", GAMES)
def test_a_seed_repeats_an_episode_bit_for_bit(game: dict) -> None:
    first, again = play_on(TagEnv(game), 9, seed=11), play_on(TagEnv(game), 9, seed=11)
    other = play_on(TagEnv(game), 9, seed=12)
    for one, two in zip(first, again, strict=True):
        for agent, key in itertools.product(one, one["adversary_0"]):
            if key in one[agent]:
                np.testing.assert_array_equal(one[agent][key], two[agent][key])
    assert not np.array_equal(first[0]["adversary_0"]["team"], other[0]["adversary_0"]["team"])


def test_an_episode_ends_by_truncation_and_reports_itself() -> None:
    env = TagEnv(max_cycles=5)
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    total = np.zeros(4)
    for step in range(5):
        _, rewards, terminateds, truncateds, infos = env.step(random_actions(env, rng))
        total += list(rewards.values())
        assert terminateds == {"__all__": False}
        assert truncateds == {"__all__": step == 4}
        assert ("__common__" in infos) == (step == 4)
    stats = infos["__common__"][STATS_KEY]
    assert stats["return_adversary"] == pytest.approx(total.mean())
    assert env.agents == []
    assert env.reset()[0].keys() == set(env.possible_agents)


def test_links_and_critic_state_are_the_true_worlds() -> None:
    env = TagEnv(num_class_a=3, num_class_b=4, comm_range=0.7, comm_hops=1)
    observations = play_on(env, 5)[-1]
    world = env.par_env.unwrapped.world
    positions = np.array([agent.state.p_pos for agent in world.agents[:7]])
    near = np.linalg.norm(positions[:, None] - positions[None], axis=-1) <= 0.7
    for i, name in enumerate(env.roster.adversaries):
        obs = observations[name]
        assert obs["self"].tolist() == np.eye(7)[i].tolist()
        np.testing.assert_array_equal(obs["message_mask"][:, -1], near[i])
        np.testing.assert_array_equal(obs["links"], near & near[i][:, None] & near[i][None])
        np.testing.assert_allclose(obs["team"][:, :2], positions, atol=1e-6)
        assert (obs["messages"][~near[i]] == 0).all()
    np.testing.assert_allclose(observations["adversary_0"]["good"][0, 2:], world.agents[7].state.p_vel, atol=1e-6)


def test_history_moves_on_and_is_masked_before_the_reset() -> None:
    env = TagEnv(history_length=3, comm_range=float("inf"))
    seen = play_on(env, 4)
    now = [obs["adversary_1"]["messages"][:, -1] for obs in seen]
    for t, obs in enumerate(seen):
        mask = obs["adversary_1"]["message_mask"]
        assert mask[0].tolist() == [float(t >= 2), float(t >= 1), 1.0]
        for back in range(min(t, 2) + 1):
            np.testing.assert_array_equal(obs["adversary_1"]["messages"][:, 2 - back], now[t - back])
    env.reset()
    assert env.reset()[0]["adversary_1"]["message_mask"][0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("game", [{"continuous_actions": False}, {"continuous_actions": True}])
def test_it_is_mpes_own_game(game: dict) -> None:
    """The same actions, prey's included, give mpe2's own observations and rewards."""
    env = TagEnv(good_policy="learned", max_cycles=30, **game)
    plain = simple_tag_v3.parallel_env(num_adversaries=4, num_obstacles=2, max_cycles=30, **game)
    env.reset(seed=5)
    plain.reset(seed=5)
    rng = np.random.default_rng(5)
    for _ in range(30):
        actions = random_actions(env, rng)
        _, rewards, *_ = env.step(actions)
        raw, expected, *_ = plain.step(actions)
        assert rewards == expected
        np.testing.assert_array_equal(env.games.world._seen[0]["adversary_3"], raw["adversary_3"])


def potential(env: TagEnv) -> np.ndarray:
    return env.games.game.potential(env.games.facts)[0]


def test_shaping_is_potential_based_and_never_reported() -> None:
    games = [TagEnv(shaping=c, shaping_gamma=0.9) for c in (0, 5)]
    rng = [np.random.default_rng(2) for _ in games]
    seen = []
    for env in games:
        env.reset(seed=2)
    seen.append(potential(games[1]))
    for _ in range(20):
        plain, shaped = (env.step(random_actions(env, r)) for env, r in zip(games, rng, strict=True))
        seen.append(potential(games[1]))
        extra = 5 * (0.9 * seen[-1] - seen[-2])
        np.testing.assert_allclose(np.array(list(shaped[1].values())) - list(plain[1].values()), extra)
    assert games[0].stats.summary() == games[1].stats.summary()
    x = games[1].positions
    np.testing.assert_allclose(seen[-1], -np.linalg.norm(x[:4] - x[4], axis=1))


def test_critics_and_shaping_know_no_place_beyond_the_bound() -> None:
    env = TagEnv(max_cycles=200)
    env.reset(seed=0)
    for _ in range(150):
        observations, *_ = env.step({agent: 1 if agent == "adversary_0" else 0 for agent in env.agents})  # 1: left
    (x, y), prey = env.positions[0], env.positions[4]
    assert x < -3
    np.testing.assert_allclose(observations["adversary_1"]["team"][0, :2], [-2, y], rtol=1e-6)
    np.testing.assert_allclose(potential(env)[0], -np.hypot(-2 - prey[0], y - prey[1]))
    np.testing.assert_allclose(observations["adversary_0"]["messages"][0, -1, :2], [x, y], rtol=1e-6)  # actors do


def test_rendering_needs_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    env = TagEnv(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    rng = np.random.default_rng(0)
    for _ in range(5):
        env.step(random_actions(env, rng))
    assert first.shape == (700, 700, 3)
    assert first.dtype == np.uint8
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 3
    assert (env.render() != first).any()


def test_a_dict_and_keywords_build_the_same_game() -> None:
    assert TagEnv({"num_class_a": 3, "comm_range": 0.5}).config == TagEnv(num_class_a=3, comm_range=0.5).config


def test_evasive_prey_is_harder_to_catch_and_stays_inside() -> None:
    returns = {}
    for prey in ("random", "evasive"):
        env = TagEnv(num_class_a=3, num_class_b=3, good_policy=prey, max_cycles=100)
        for seed in range(10):
            play_on(env, 100, seed)
            returns[prey] = returns.get(prey, 0) + env.stats.summary()["contacts"]
            if prey == "evasive":
                assert np.abs(env.positions[6:]).max() < 1.3
    assert returns["evasive"] < returns["random"]


def test_frozen_prey_acts_by_its_weights(tmp_path: Path) -> None:
    prey = build_net("good", CommConfig(hidden_dim=12), False)
    for parameter in prey.actor.parameters():
        parameter.data.zero_()
    prey.actor[-1].bias.data[2] = 1.0  # always to the right
    folder = save_exported(Exported({"good": prey}, {}), tmp_path / "prey")
    env = TagEnv(good_policy=str(folder), num_class_a=1, num_class_b=0, num_good=3, num_obstacles=0)
    env.reset(seed=0)
    start = env.positions[1:, 0].copy()
    for _ in range(10):
        env.step({"adversary_0": 0})
    assert (env.positions[1:, 0] > start + 0.3).all()
    with pytest.raises(ConfigError, match="weights for continuous actions, got discrete"):
        TagEnv(good_policy=str(folder), continuous_actions=True)
    hunters = save_exported(
        Exported({"class_a": build_net("class_a", CommConfig(hidden_dim=12), False)}, {}), tmp_path / "a"
    )
    with pytest.raises(ConfigError, match="one policy that controls good agents"):
        TagEnv(good_policy=str(hunters))


class Right(Prey):
    """Always accelerates to the right; gives what `actions` holds instead, if that is given."""

    def __init__(self, actions: Any = None) -> None:
        self.actions = actions

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the actions."""
        return np.full(len(observations["own"]), 2) if self.actions is None else np.array(self.actions)


class Broken(Right):
    """Cannot be built."""

    def __init__(self) -> None:
        raise RuntimeError("no map")


@pytest.mark.parametrize("num_good", [3, [1, 3]])
def test_a_script_of_ones_own_moves_the_prey(num_good: Any) -> None:
    env = TagEnv(
        good_policy={"type": f"{__name__}.Right"}, num_class_a=1, num_class_b=1, num_good=num_good, num_obstacles=0
    )
    env.reset(seed=0)
    start = env.positions[2:, 0].copy()
    for _ in range(10):
        env.step(dict.fromkeys(env.agents, 0))
    assert (env.positions[2:, 0] > start + 0.3)[: len(env.par_env.agents) - 2].all()


@pytest.mark.parametrize(
    ("arguments", "continuous", "message"),
    [
        ({"actions": [5]}, False, r"Right\.act: expected integers from 0 to 4 of shape \(1,\), got 5\."),
        ({"actions": [0.5]}, False, r"expected integers .*, got float64 of shape \(1,\)"),
        ({"actions": [1, 1]}, False, r"of shape \(1,\), got int64 of shape \(2,\)"),
        ({}, True, r"expected numbers from 0 to 1 of shape \(1, 5\), got int64 of shape \(1,\)"),
        ({"actions": [[0, 0, 0, 0, float("nan")]]}, True, r"expected numbers from 0 to 1 .*, got nan\."),
    ],
)
def test_a_scripts_actions_are_checked(arguments: dict[str, Any], continuous: bool, message: str) -> None:
    env = TagEnv(good_policy={"type": f"{__name__}.Right", **arguments}, continuous_actions=continuous)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step({agent: space.sample() for agent, space in env.action_spaces.items()})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"good_policy": {"type": f"{__name__}.Right", "acts": 1}},
            f"good_policy: {__name__}.Right: expected the arguments (action",
        ),
        (
            {"good_policy": {"type": f"{__name__}.Broken"}},
            "good_policy: expected a script that can be built, got Runtime",
        ),
        (
            {"good_policy": {"type": "rllib_tag.TagEnv"}},
            "good_policy: expected a subclass of Prey, got 'rllib_tag.TagEnv'",
        ),
        ({"good_policy": {"path": "x"}}, "good_policy: expected an import path"),
        ({"num_clas_a": 1}, "unknown key 'num_clas_a'. Did you mean 'num_class_a'?"),
        ({"num_class_a": 0, "num_class_b": 0}, "at least one adversary"),
        ({"num_class_a": "2"}, "num_class_a: expected an integer"),
        ({"num_good": 0}, "num_good: expected an integer of at least 1"),
        ({"num_obstacles": -1}, "num_obstacles: expected an integer of at least 0"),
        ({"comm_range": -0.1}, "comm_range: expected a number of at least 0, got -0.1"),
        ({"comm_range": float("nan")}, "comm_range: expected a number of at least 0, got nan"),
        ({"comm_range": "far"}, "comm_range: expected a number"),
        ({"comm_hops": 1.5}, "comm_hops: expected an integer"),
        ({"history_length": 0}, "history_length: expected an integer of at least 1, got 0"),
        ({"max_cycles": 0}, "max_cycles: expected an integer of at least 1"),
        ({"continuous_actions": 1}, "continuous_actions: expected true or false, got 1"),
        ({"good_policy": "clever"}, "good_policy: expected one of random, evasive, learned, a folder"),
        ({"good_policy": 3}, "good_policy: expected"),
        ({"shaping": -1}, "shaping: expected a number of at least 0"),
        ({"shaping": float("inf")}, "shaping: expected a finite number"),
        ({"shaping_gamma": 1.1}, "shaping_gamma: expected a number between 0 and 1"),
        ({"render_mode": "ascii"}, "render_mode: expected one of"),
        ({"wrappers": "supersuit.frame_skip_v0"}, "wrappers: expected a list"),
    ],
)
def test_bad_configurations_are_named(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TagEnv(keys)
    assert message in str(error.value)


def test_a_key_given_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected each key once, got num_good"):
        TagEnv({"num_good": 1}, num_good=1)


def test_an_episode_ends_once_all_prey_is_touched_at_the_same_time() -> None:
    env = TagEnv({"num_class_b": 5, "terminate_on_success": True})
    rng = np.random.default_rng(0)
    lengths = []
    for seed in range(7):
        env.reset(seed=seed)
        length = 0
        while env.agents:
            _, _, terminateds, truncateds, infos = env.step(random_actions(env, rng))
            length += 1
        stats = infos["__common__"][STATS_KEY]
        assert terminateds["__all__"] == (stats["captured"] == 1) == (not truncateds["__all__"])
        assert stats["steps_to_first_contact"] == length
        lengths.append(length)
    assert min(lengths) < 100 == max(lengths)


@pytest.mark.parametrize("option", ["curriculum", "num_agent_neighbors", "num_landmark_neighbors", "benchmark_data"])
def test_other_options_of_mpe2_are_refused_by_name(option: str) -> None:
    assert option in inspect.signature(simple_tag_v3.raw_env).parameters
    with pytest.raises(ConfigError, match=f"env_config: expected no {option}, got 1: "):
        TagEnv({option: 1})


@pytest.mark.skipif(version("mpe2").startswith("1.0"), reason="1.0 has a curriculum that can be advanced")
def test_mpe2s_curriculum_cannot_be_advanced() -> None:
    # The reason why `curriculum` is refused. Once this fails, it can be taken.
    env = simple_tag_v3.parallel_env(curriculum=True)
    env.unwrapped.set_curriculum_stage(2)
    env.reset(seed=0)
    assert env.unwrapped.world.agents[-1].max_speed == 0.65
