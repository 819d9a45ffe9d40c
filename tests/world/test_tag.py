"""Tag as a game: what its classes see, say and are counted by, against the true world; on arrays and on mpe2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.game import Game
from rllib_tag.world.team_games import TeamGames

GAMES: list[dict[str, Any]] = [
    {},
    {"num_class_a": 3, "num_class_b": 0, "num_obstacles": 0, "comm_range": math.inf},
    {"num_class_a": 1, "num_class_b": 4, "num_good": 2, "good_policy": "evasive", "history_length": 3, "shaping": 5.0},
    {"good_policy": "learned", "num_good": 3, "full_observation": True, "history_length": 1},
    {"num_class_a": 0, "num_class_b": 5, "continuous_actions": True, "comm_range": 0.5, "shaping": 3.0},
    {"continuous_actions": True, "good_policy": "evasive", "num_good": 2},
]


def games_of(config: TagEnvConfig, num_games: int, on_arrays: bool) -> TeamGames:
    return config.games(config.batched_world(num_games) if on_arrays else config.world(num_games))


def random_actions(games: TeamGames, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if games.game.continuous_actions:
        return {agent: rng.random((games.num_games, 5), dtype=np.float32) for agent in games.agents}
    return {agent: rng.integers(5, size=games.num_games) for agent in games.agents}


@pytest.mark.parametrize("changes", GAMES, ids=str)
def test_arrays_and_mpe2_are_the_same_games(changes: dict[str, Any]) -> None:
    """What is seen, said, paid and counted, over two episodes and the reset between them."""
    config = TagEnvConfig(max_cycles=11, **changes)
    arrays, mpe2 = (games_of(config, 3, on_arrays) for on_arrays in (True, False))
    for games in (arrays, mpe2):
        games.reset([2, 3, 5])
    rng = np.random.default_rng(7)
    for step in range(22):
        assert_same(arrays, mpe2)
        actions = random_actions(arrays, rng)
        ours, theirs = arrays.step(actions), mpe2.step(actions)
        np.testing.assert_allclose(ours.rewards, theirs.rewards, atol=1e-9)
        for name in ("terminated", "truncated"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.truncated.all() == (step % 11 == 10)
        assert ours.stats.keys() == theirs.stats.keys() == (set(range(3)) if step % 11 == 10 else set())
        for game, metrics in ours.stats.items():
            assert metrics == pytest.approx(theirs.stats[game], abs=1e-9)


def assert_same(ours: TeamGames, theirs: TeamGames) -> None:
    for name in ours.facts:
        np.testing.assert_allclose(ours.facts[name], theirs.facts[name], atol=1e-9)
    np.testing.assert_allclose(ours.view.messages, theirs.view.messages, atol=1e-6)
    np.testing.assert_array_equal(ours.view.links, theirs.view.links)
    np.testing.assert_array_equal(ours.view.ages, theirs.view.ages)
    np.testing.assert_array_equal(ours.history.num_valid, theirs.history.num_valid)
    for mine, other in ((ours.view.state, theirs.view.state), (ours.view.others, theirs.view.others)):
        assert mine.keys() == other.keys()
        for key in mine:
            np.testing.assert_allclose(mine[key], other[key], atol=1e-6)


@pytest.mark.parametrize("changes", GAMES, ids=str)
def test_messages_show_what_a_class_sees_of_the_true_world(changes: dict[str, Any]) -> None:
    config = TagEnvConfig(max_cycles=11, **changes)
    games = games_of(config, 3, True)
    games.reset([2, 3, 5])
    rng = np.random.default_rng(7)
    for _ in range(7):
        games.step(random_actions(games, rng))
    roster, layout, facts, x = config.roster, games.game.layout, games.facts, config.roster.num_adversaries
    y, z = config.num_good, config.num_obstacles
    said = games.view.messages
    assert said.shape == (3, x, layout.width) == (3, x, 8 + 2 * z + 4 * y)
    moving = np.concatenate([facts["positions"], facts["velocities"]], axis=-1)
    np.testing.assert_allclose(said[..., layout.own], moving[:, :x], atol=1e-6)
    for i, is_b in enumerate(roster.classes):
        for kind, world, sees in (
            ("landmarks", facts["landmarks"], config.full_observation or not is_b),
            ("good", moving[:, x:], config.full_observation or is_b),
        ):
            np.testing.assert_allclose(said[:, i, layout.entities(kind)], world.reshape(3, -1) * sees, atol=1e-6)
            assert (said[:, i, layout.seen(kind)] == sees).all()
        assert said[0, i, layout.one_hot].tolist() == [1 - is_b, is_b]
    np.testing.assert_allclose(games.view.state["team"][..., :4], moving[:, :x], atol=1e-6)
    np.testing.assert_allclose(games.view.state["good"], moving[:, x:], atol=1e-6)


def test_the_layout_is_what_a_first_step_shows() -> None:
    game = TagEnvConfig(num_class_a=3, num_class_b=1, num_good=2, num_obstacles=5).game
    assert Game.layout.func(game) == game.layout


@pytest.mark.parametrize("changes", [{"backend": "mpe2"}, {"render_mode": "rgb_array"}, {"terminate_on_success": True},
                                     {"wrappers": [{"type": "supersuit.frame_skip_v0", "num_frames": 2}]}])  # fmt: skip
def test_what_needs_mpe2_is_not_played_on_arrays(changes: dict[str, Any]) -> None:
    config = TagEnvConfig.from_mapping(changes)
    assert config.unbatched_reason in (*changes, "backend: mpe2", "render_mode: rgb_array")
    with pytest.raises(ConfigError, match="expected a game that can be batched, got"):
        config.batched_world(2)
    config.world(1).close()


def test_games_that_end_at_different_times_begin_anew_one_by_one_or_rest() -> None:
    config = TagEnvConfig(num_class_b=5, terminate_on_success=True, max_cycles=30)
    again, rest = games_of(config, 3, False), games_of(config, 3, False)
    for games in (again, rest):
        games.reset([2, 3, 5])
    rng = np.random.default_rng(0)
    ended: dict[int, dict[str, float]] = {}
    for _ in range(30):
        actions = random_actions(again, rng)
        first, second = again.step(actions), rest.step(actions, restart=False)
        for game, metrics in first.stats.items():
            assert again.view.ages[game] == 0
            assert again.history.num_valid[game] == 1
            if game not in ended:
                assert metrics == second.stats[game]
                ended[game] = metrics
        assert (second.rewards[[game for game in ended if game not in second.stats]] == 0).all()
    assert len(ended) == 3
    assert len({metrics["steps_to_first_contact"] for metrics in ended.values()}) > 1
    assert not rest.step(actions, restart=False).stats
