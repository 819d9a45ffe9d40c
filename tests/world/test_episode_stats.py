"""The metrics of an episode against hand-made ones."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_actions

from rllib_tag.names import METRICS
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.episode_stats import EpisodeStats
from rllib_tag.world.tag import TagGame


def game(num_class_a: int, num_class_b: int, num_good: int, max_cycles: int) -> TagGame:
    return TagEnvConfig(
        num_class_a=num_class_a, num_class_b=num_class_b, num_good=num_good, max_cycles=max_cycles
    ).game  # fmt: skip


def test_metrics_of_a_hand_made_episode() -> None:
    stats = EpisodeStats(game(1, 1, 1, 50), 1)
    apart = {"positions": np.array([[(0, 0), (1, 0), (5, 5)]])}
    both = {"positions": np.array([[(0.05, 0), (-0.05, 0), (0, 0)]])}
    alone, together = np.eye(2, dtype=bool)[None], np.ones((1, 2, 2), bool)
    stats.step([0], np.array([[0.0, 0.0, -1.0]]), apart, alone)
    stats.step([0], np.array([[0.0, 0.0, 0.0]]), apart, together)
    assert stats.summary()["steps_to_first_contact"] == 50
    stats.step([0], np.array([[20.0, 30.0, -20.0]]), both, together)
    summary = stats.summary()
    assert summary == {
        "return_adversary": 25.0, "return_class_a": 20.0, "return_class_b": 30.0, "return_good": -21.0,
        "contacts": 2.0, "captured": 1.0, "steps_to_first_contact": 3.0, "mean_links": pytest.approx(2 / 3),
    }  # fmt: skip
    assert list(summary) == list(METRICS)


def test_many_games_count_as_one_each() -> None:
    tag, rng = game(2, 1, 2, 9), np.random.default_rng(0)
    many, ones = EpisodeStats(tag, 7), [EpisodeStats(tag, 1) for _ in range(7)]
    for step in range(5):
        rewards, positions = rng.normal(size=(7, 5)), rng.uniform(-0.3, 0.3, (7, 5, 2))
        linked = rng.random((7, 3, 3)) < 0.5
        if step == 2:
            many.restart([4])
            ones[4].restart([0])
        many.step(slice(None), rewards, {"positions": positions}, linked)
        for i, one in enumerate(ones):
            one.step([0], rewards[i : i + 1], {"positions": positions[i : i + 1]}, linked[i : i + 1])
    assert [many.summary(i) for i in range(7)] == [one.summary() for one in ones]


def test_contacts_are_what_mpe_pays_ten_for() -> None:
    env = TagEnv(num_class_a=5, num_class_b=4, num_good=2, num_obstacles=0)
    rng = np.random.default_rng(0)
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(100):
            env.step(random_actions(env, rng))
        summary = env.stats.summary()
        assert summary["return_adversary"] == 10 * summary["contacts"]
    assert summary["contacts"] > 0


def test_an_absent_class_has_no_return() -> None:
    env = TagEnv(num_class_a=0, num_class_b=2)
    env.reset(seed=0)
    assert "return_class_a" not in env.stats.summary()
