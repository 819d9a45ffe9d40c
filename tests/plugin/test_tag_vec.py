"""Many games at once are the same games as `TagEnv`'s, one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import as_batch

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import GoodNet
from rllib_tag.nn.team import receiver_rows
from rllib_tag.nn.weights import Exported, save_exported
from rllib_tag.plugin.env import STATS_KEY, TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.tag_vec import TagVec

GAMES = {
    "default": {},
    "evasive": {"good_policy": "evasive", "shaping": 5.0, "num_class_a": 3, "num_class_b": 1},
    "learned": {"good_policy": "learned", "num_good": 3, "num_obstacles": 0, "comm_range": 0.5},
    "continuous": {"continuous_actions": True, "shaping": 3.0, "comm_hops": 1, "num_class_a": 0, "num_class_b": 5},
    "continuous_evasive": {"continuous_actions": True, "good_policy": "evasive", "full_observation": True},
    "no_history": {"history_length": 1, "comm_range": float("inf"), "num_good": 2},
}


@pytest.mark.parametrize("game", [*GAMES, "frozen"])
def test_the_same_games(game: str, tmp_path: Path) -> None:
    """Observations, rewards, statistics, over two episodes and the reset between them."""
    settings = {"max_cycles": 11, **GAMES.get(game, {})}
    if game == "frozen":
        settings["good_policy"] = frozen_prey(tmp_path, settings)
    seeds = [2, 3, 5]
    envs = [TagEnv(settings) for _ in seeds]
    games = TagVec(envs[0].config, len(seeds))
    observed = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    games.reset(seeds)
    T = games.config.history_length
    said = [np.zeros_like(games.view.adversaries["messages"])] * (T - 1)
    rng = np.random.default_rng(7)
    for step in range(2 * settings["max_cycles"]):
        check_view(games, said, observed, envs[0])
        said = [*said, games.view.adversaries["messages"]][-T + 1 :] if T > 1 else []
        actions = {agent: play(rng, games) for agent in games.agents}
        result = games.step(actions)
        last = (step + 1) % settings["max_cycles"] == 0
        assert (result.final is not None) == last
        for i, env in enumerate(envs):
            observed[i], rewards, _, truncateds, infos = env.step({agent: actions[agent][i] for agent in env.agents})
            np.testing.assert_allclose(result.rewards[i], [rewards[agent] for agent in games.agents], atol=1e-9)
            assert truncateds["__all__"] == last
            if last:
                assert result.stats[i] == pytest.approx(infos["__common__"][STATS_KEY], abs=1e-9)
        if last:
            for i, env in enumerate(envs):
                for agent, place in zip(env.roster.adversaries, range(env.roster.num_adversaries), strict=True):
                    np.testing.assert_allclose(
                        result.final.adversaries["team"][i], observed[i][agent]["team"], atol=1e-6
                    )
                    assert result.final.adversaries["links"][i][place].tolist() == env.linked[place].tolist()
            observed = [env.reset()[0] for env in envs]


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "mpe2"},
        {"render_mode": "rgb_array"},
        {"wrappers": [{"type": "supersuit.frame_skip_v0", "num_frames": 2}]},
    ],
)
def test_what_needs_mpe2_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="expected a game that can be played on arrays, got"):
        TagVec(TagEnvConfig.from_mapping(settings), 2)


def check_view(games: TagVec, said: list[np.ndarray], observed: list[dict], env: TagEnv) -> None:
    """What the games show, taken apart for every receiver, is what `TagEnv` gives it."""
    T, x = games.config.history_length, env.roster.num_adversaries
    view = {key: torch.from_numpy(value).unsqueeze(1) for key, value in games.view.adversaries.items()}
    stacked = np.stack([*said, games.view.adversaries["messages"]], axis=1)
    view["messages"] = torch.from_numpy(stacked)
    view["history"] = torch.full((games.num_envs, 1), min(games.view.steps + 1, T))
    rows = receiver_rows(view, range(x), env.config.comm_hops)
    expected = as_batch([obs[agent] for obs in observed for agent in env.roster.adversaries])
    assert rows.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(rows[key], value, rtol=0, atol=1e-6)
    if env.config.good_policy == "learned":
        for key, value in as_batch([obs[agent] for obs in observed for agent in env.roster.good_agents]).items():
            torch.testing.assert_close(torch.from_numpy(games.view.good[key]).flatten(0, 1), value, rtol=0, atol=1e-6)


def play(rng: np.random.Generator, games: TagVec) -> np.ndarray:
    if games.config.continuous_actions:
        return rng.random((games.num_envs, 5), dtype=np.float32)
    return rng.integers(5, size=games.num_envs)


def frozen_prey(folder: Path, settings: dict) -> str:
    config = CommConfig(hidden_dim=12)
    nets = {"good": GoodNet(5, config, continuous=False)}
    save_exported(Exported(nets, {**settings, "good_policy": "learned"}), folder / "prey")
    return str(folder / "prey")
