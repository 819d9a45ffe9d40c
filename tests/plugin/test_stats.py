"""The figures of an episode against hand-made ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_actions

from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.episode_stats import METRICS, EpisodeStats
from rllib_tag.world.roster import Roster


def world(*places: tuple[float, float], adversaries: int) -> SimpleNamespace:
    agents = [
        SimpleNamespace(
            adversary=i < adversaries, size=0.075 if i < adversaries else 0.05, state=SimpleNamespace(p_pos=np.array(p))
        )
        for i, p in enumerate(places)
    ]
    return SimpleNamespace(agents=agents)


def test_figures_of_a_hand_made_episode() -> None:
    roster = Roster(1, 1, 1)
    stats = EpisodeStats(roster, max_cycles=50)
    apart = world((0, 0), (1, 0), (5, 5), adversaries=2)
    both = world((0.05, 0), (-0.05, 0), (0, 0), adversaries=2)
    alone, together = np.eye(2, dtype=bool), np.ones((2, 2), bool)
    stats.step(apart, {"adversary_0": 0.0, "adversary_1": 0.0, "agent_0": -1.0}, alone)
    stats.step(apart, {"adversary_0": 0.0, "adversary_1": 0.0, "agent_0": 0.0}, together)
    assert stats.summary()["steps_to_first_contact"] == 50
    stats.step(both, {"adversary_0": 20.0, "adversary_1": 30.0, "agent_0": -20.0}, together)
    summary = stats.summary()
    assert summary == {
        "return_adversary": 25.0, "return_class_a": 20.0, "return_class_b": 30.0, "return_good": -21.0,
        "contacts": 2.0, "captured": 1.0, "steps_to_first_contact": 3.0, "mean_links": pytest.approx(2 / 3),
    }  # fmt: skip
    assert tuple(summary) == METRICS


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
