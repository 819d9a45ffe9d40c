"""The transfer grid of the small trained team."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rllib_tag import evaluate
from rllib_tag.errors import ConfigError
from rllib_tag.files import write_csv
from rllib_tag.names import GAME
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.playing.transfer import transfer, transfer_games
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.report.figures import save_figure
from rllib_tag.report.heat_map import draw_heat_map, grid, read_transfer


def test_the_grid_has_every_team_once_and_the_trained_one_in_other_worlds() -> None:
    games = transfer_games(TagEnvConfig())
    assert len(games) == 48 + 2 + 4
    assert len({tuple(game.values()) for game in games}) == len(games)
    assert {(game["num_class_a"], game["num_class_b"]) for game in games[:48]} == {
        (a, b) for a in range(7) for b in range(7) if a + b
    }
    assert [game["num_good"] for game in games[48:]] == [2, 3, 1, 1, 1, 1]
    assert [game["num_obstacles"] for game in games[48:]] == [2, 2, 0, 1, 3, 4]


def test_a_team_plays_the_grid_beside_baselines_and_natives(team: TrainedTeam, tmp_path: Path) -> None:
    native = dataclasses.replace(team, env_config={**team.env_config, "num_class_a": 0, "num_class_b": 1}, seed=7)
    found: list[list[dict]] = []
    rows = transfer(team, natives=[native], largest=1, episodes=2, on_game=found.append)
    assert [row for part in found for row in part] == rows
    assert [row["controller"] for row in found[0]] == ["team", "random", "class_b_chases", "all_chase", "native_7"]
    assert len(found) == 3 + 1 + 2 + 4  # the trained team is larger than the largest here
    expected = evaluate(team, episodes=2, num_class_a=0, num_class_b=1).summary()["team"]["return_adversary"]
    assert found[0][0]["return_adversary_mean"] == expected["mean"]
    assert found[0][4]["return_adversary_mean"] == expected["mean"]  # the same weights

    write_csv(tmp_path / "transfer.csv", rows)
    read = read_transfer(tmp_path)
    values = grid(read, "team")
    assert values.shape == (3, 3)
    assert np.isnan(values[0, 0])
    assert not np.isnan(values[2, 2])
    assert values[0, 1] == pytest.approx(expected["mean"])
    images = save_figure(draw_heat_map(read), tmp_path / "map")
    assert [image.name for image in images] == ["map.png", "map.svg"]
    with pytest.raises(ConfigError, match="expected games of 'nobody'"):
        grid(read, "nobody")


def test_natives_must_be_of_the_grid_and_told_apart(team: TrainedTeam) -> None:
    for key, value in (("num_class_a", 5), ("good_policy", "evasive")):
        native = dataclasses.replace(team, env_config={**team.env_config, key: value})
        with pytest.raises(ConfigError, match="native: expected a team trained on a game of the grid"):
            transfer(team, natives=[native], largest=4)
    with pytest.raises(ConfigError, match="a second native_1"):
        transfer(team, natives=[team, team])


def test_what_is_not_a_transfer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a transfer\.csv"):
        read_transfer(tmp_path)
    (tmp_path / "transfer.csv").write_text(",".join(GAME) + "\n1,1,1,2\n")
    with pytest.raises(ConfigError, match=r"expected a transfer\.csv"):
        read_transfer(tmp_path)
