from __future__ import annotations

import numpy as np
import pytest
from conftest import play_on, random_actions

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.env import TagEnv


def test_delayed_observations_come_late_while_links_stay_true() -> None:
    delayed = TagEnv(wrappers=[{"type": "supersuit.delay_observations_v0", "delay": 2}], history_length=1)
    plain = TagEnv(history_length=1)
    late, now = play_on(delayed, 8, seed=3), play_on(plain, 8, seed=3)
    for t in range(2, 9):
        np.testing.assert_array_equal(late[t]["adversary_0"]["messages"][0], now[t - 2]["adversary_0"]["messages"][0])
        np.testing.assert_array_equal(late[t]["adversary_0"]["links"], now[t]["adversary_0"]["links"])
        np.testing.assert_array_equal(late[t]["adversary_0"]["team"], now[t]["adversary_0"]["team"])


def test_frame_skip_takes_fewer_steps() -> None:
    env = TagEnv(wrappers=[{"type": "supersuit.frame_skip_v0", "num_frames": 4}], max_cycles=20)
    env.reset(seed=0)
    rng, steps, done = np.random.default_rng(0), 0, False
    while not done:
        _, _, _, truncateds, _ = env.step(random_actions(env, rng))
        done, steps = truncateds["__all__"], steps + 1
    assert steps == 5


@pytest.mark.parametrize("game", [{}, {"num_good": [1, 2], "num_class_b": [0, 2]}], ids=["one_size", "drawn"])
@pytest.mark.parametrize("num_frames", [[2, 4], (2, 4)])
def test_supersuit_gets_tuples_where_yaml_has_lists(num_frames: object, game: dict) -> None:
    """And the env's own random stream, from which this wrapper draws."""
    env = TagEnv(wrappers=[{"type": "supersuit.frame_skip_v0", "num_frames": num_frames}], max_cycles=20, **game)
    play_on(env, 4)


def test_sticky_actions_repeat_with_the_seed() -> None:
    wrappers = [{"type": "supersuit.sticky_actions_v0", "repeat_action_probability": 0.5}]
    first, again = (play_on(TagEnv(wrappers=wrappers), 20, seed=4) for _ in range(2))
    plain = play_on(TagEnv(), 20, seed=4)
    np.testing.assert_array_equal(first[-1]["adversary_0"]["team"], again[-1]["adversary_0"]["team"])
    assert not np.array_equal(first[-1]["adversary_0"]["team"], plain[-1]["adversary_0"]["team"])


def test_several_wrappers_apply_in_order() -> None:
    env = TagEnv(
        wrappers=["pettingzoo.utils.wrappers.BaseParallelWrapper", {"type": "supersuit.frame_skip_v0", "num_frames": 2}]
    )
    assert [type(env.par_env).__name__, type(env.par_env.env).__name__] == ["frame_skip_par", "BaseParallelWrapper"]
    play_on(env, 3)


def test_statistics_are_mpes_own_below_the_wrappers() -> None:
    """Skipped frames and clipped rewards change what is learned from, not what is reported."""
    wrappers = [{"type": "supersuit.clip_reward_v0"}, {"type": "supersuit.frame_skip_v0", "num_frames": 4}]
    env = TagEnv(num_class_a=6, num_class_b=6, num_good=2, wrappers=wrappers)
    rng, contacts, paid = np.random.default_rng(0), 0.0, 0.0
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(25):
            paid += env.step(random_actions(env, rng))[1]["adversary_0"]
        summary = env.stats.summary()
        assert summary["return_adversary"] == 10 * summary["contacts"]
        assert summary["steps_to_first_contact"] <= 100
        contacts += summary["contacts"]
    assert 0 < paid < 10 * contacts


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "supersuit.frame_stack_v1", "stack_size": 4}, "changes the observation layout of adversary_0"),
        ("supersuit.agent_indicator_v0", "supersuit.agent_indicator_v0 rejects {}: spaces need to be the same shape"),
        ("supersuit.pad_observations_v0", "changes the observation layout of agent_0"),
        ({"type": "supersuit.frame_skip_v0"}, "missing 1 required positional argument: 'num_frames'"),
        ({"type": "supersuit.frame_skip_v0", "frames": 2}, "frames"),
        ("supersuit.frame_skip_v9", "cannot import 'supersuit.frame_skip_v9'"),
        ("ray.init", "expected a SuperSuit wrapper such as"),
        ({"type": "ray.init", "command": "true"}, "expected a SuperSuit wrapper such as"),
        ("rllib_tag.TagEnv", "expected a SuperSuit wrapper such as"),
        ("frame_skip", "expected an import path"),
        ({"num_frames": 3}, "expected an import path"),
    ],
)
def test_wrappers_that_do_not_fit_are_refused(entry: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TagEnv(wrappers=[entry])
    assert message in str(error.value)
