"""Games on arrays against the same games on mpe2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.names import BASELINES
from rllib_tag.playing.controllers import scripted_controller
from rllib_tag.playing.evaluate import play
from rllib_tag.playing.games import ArrayGames, MpeGames, start
from rllib_tag.plugin.env_config import TagEnvConfig

GAMES: list[dict[str, Any]] = [
    {},
    {"num_class_a": 3, "num_class_b": 0, "num_obstacles": 0, "comm_range": math.inf},
    {"num_class_a": 1, "num_class_b": 4, "num_good": 2, "good_policy": "evasive", "history_length": 3, "comm_hops": 1},
    {"good_policy": "learned", "num_good": 2, "full_observation": True},
    {"continuous_actions": True, "comm_range": 0.5},
]


def random_play(games: ArrayGames | MpeGames, seed: int) -> dict[str, np.ndarray]:
    """Actions for everyone who acts by a policy."""
    rng, config = np.random.default_rng([seed, games.steps]), games.config
    agents = [agent for policy in config.policies for agent in config.roster.members(policy)]
    if config.continuous_actions:
        return {agent: rng.random((len(games.seeds), 5), dtype=np.float32) for agent in agents}
    return {agent: rng.integers(5, size=len(games.seeds)) for agent in agents}


@pytest.mark.parametrize("changes", GAMES, ids=str)
def test_arrays_and_mpe2_show_the_same(changes: dict[str, Any]) -> None:
    config = TagEnvConfig(max_cycles=13, **changes)
    arrays, mpe2 = ArrayGames(config, [3, 5, 7]), MpeGames(config, [3, 5, 7])
    for _ in range(13):
        assert not any(arrays.stats)
        assert not any(mpe2.stats)
        np.testing.assert_allclose(arrays.positions, mpe2.positions, atol=1e-9)
        np.testing.assert_allclose(arrays.velocities, mpe2.velocities, atol=1e-9)
        for policy in config.policies:
            ours, theirs = arrays.rows(policy), mpe2.rows(policy)
            assert ours.keys() == theirs.keys()
            for key in theirs:
                np.testing.assert_allclose(ours[key].numpy(), theirs[key].numpy(), atol=1e-6, err_msg=key)
        actions = random_play(arrays, 11)
        arrays.step(actions)
        mpe2.step(actions)
    assert [figures.keys() for figures in arrays.stats] == [figures.keys() for figures in mpe2.stats]
    for ours, theirs in zip(arrays.stats, mpe2.stats, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("continuous", [False, True])
def test_scripts_play_alike_on_both(name: str, continuous: bool) -> None:
    returns = [
        [row["return_adversary"] for row in play(config, scripted_controller(name), range(5)).stats]
        for config in (TagEnvConfig(continuous_actions=continuous, backend=backend) for backend in ("batched", "mpe2"))
    ]
    assert returns[0] == pytest.approx(returns[1], abs=1e-6)


def test_what_needs_mpe2_is_played_there_and_wrappers_may_end_episodes_early() -> None:
    assert isinstance(start(TagEnvConfig(), [1]), ArrayGames)
    assert isinstance(start(TagEnvConfig(backend="mpe2"), [1]), MpeGames)
    skips = {"type": "supersuit.frame_skip_v0", "num_frames": (1, 3)}
    games = play(TagEnvConfig(wrappers=[skips], max_cycles=20), scripted_controller("all_chase"), [1, 2, 3])
    assert isinstance(games, MpeGames)
    assert all(games.stats)
    assert games.steps < 20


def test_arrays_refuse_what_needs_mpe2() -> None:
    with pytest.raises(ConfigError, match="expected a game that can be played on arrays, got wrappers"):
        ArrayGames(TagEnvConfig(wrappers=["supersuit.clip_actions_v0"]), [1])
