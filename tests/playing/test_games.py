"""Scripted games on arrays against the same games on mpe2."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_tag.names import BASELINES
from rllib_tag.playing.controllers import play, scripted_controller
from rllib_tag.playing.games import Games
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.pettingzoo_world import PettingZooWorld
from rllib_tag.world.tag import TagArrays


def random_play(games: Games, seed: int) -> dict[str, np.ndarray]:
    """Actions for everyone who acts by a policy."""
    rng, config = np.random.default_rng([seed, games.steps]), games.config
    agents = [agent for policy in config.policies for agent in config.roster.members(policy)]
    if config.continuous_actions:
        return {agent: rng.random((len(games.seeds), 5), dtype=np.float32) for agent in agents}
    return {agent: rng.integers(5, size=len(games.seeds)) for agent in agents}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("continuous", [False, True])
def test_scripts_play_alike_on_both(name: str, continuous: bool) -> None:
    returns = [
        [row["return_adversary"] for row in play(config, scripted_controller(name, config), range(5)).stats]
        for config in (TagEnvConfig(continuous_actions=continuous, backend=backend) for backend in ("batched", "mpe2"))
    ]
    assert returns[0] == pytest.approx(returns[1], abs=1e-6)


def test_what_needs_mpe2_is_played_there_and_wrappers_may_end_episodes_early() -> None:
    assert isinstance(Games(TagEnvConfig(), [1]).world, TagArrays)
    assert isinstance(Games(TagEnvConfig(backend="mpe2"), [1]).world, PettingZooWorld)
    skips = {"type": "supersuit.frame_skip_v0", "num_frames": (1, 3)}
    config = TagEnvConfig(wrappers=[skips], max_cycles=20)
    games = play(config, scripted_controller("all_chase", config), [1, 2, 3])
    assert all(games.stats)
    assert games.steps < 20
