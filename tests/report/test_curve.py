from __future__ import annotations

import json
from pathlib import Path

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.report.curve import OTHER_GAME, Curve, Levels, draw_curves, read_curve, read_levels
from rllib_tag.report.figures import save_figure
from rllib_tag.report.table import read_summary
from rllib_tag.results import EPISODE_REWARD, RETURN, TEAM_RETURN

COLUMNS = f"training_iteration,timesteps_total,{RETURN}"


def test_curves_are_read_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "progress.csv").write_text(f"{COLUMNS}\n1,100,1.5\n2,200,\n3,300,9.5\n3,300,4.5\n")
    curve = read_curve(tmp_path)
    assert curve == Curve([100, 300], [1.5, 4.5])
    figure = draw_curves({"a": curve, "b": curve}, Levels({"random": 2.0}))
    images = save_figure(figure, tmp_path / "new" / "curve")
    assert [image.name for image in images] == ["curve.png", "curve.svg"]
    assert all(image.stat().st_size > 5000 for image in images)
    before = images[1].read_text()
    save_figure(draw_curves({"a": curve, "b": curve}, Levels({"random": 2.0})), images[1])
    assert images[1].read_text() == before  # no date, no random names


def test_more_series_than_colours_are_all_drawn_and_differ() -> None:
    (axes,) = draw_curves({f"run {i}": Curve([0, 1000], [i, i + 1.0]) for i in range(23)}, None).axes
    assert [line.get_label() for line in axes.lines] == [f"run {i}" for i in range(23)]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 23


def write_other(folder: Path, game: str | None = "labs_games.Rescue") -> Path:
    """A trial of a game other than tag."""
    folder.mkdir()
    (folder / "progress.csv").write_text(f"training_iteration,timesteps_total,{TEAM_RETURN}\n1,1000,-40.5\n2,2000,-8\n")
    if game is not None:
        (folder / "params.json").write_text(json.dumps({"env_config": {"game": game}}))
    return folder


def write_evaluation(folder: Path, metric: str, means: dict[str, float], **env_config: str) -> Path:
    """What an evaluation with these returns writes."""
    folder.mkdir()
    summary = {name: {metric: {"mean": mean, "standard_error": 0.5}} for name, mean in means.items()}
    content = {"summary": summary, "episodes": 2, "conditions": [], "influence": {}, "env_config": env_config}
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def test_a_curve_of_another_game_is_drawn_whole_and_named_after_no_adversary(tmp_path: Path) -> None:
    curve = read_curve(write_other(tmp_path / "a"))
    assert curve == Curve([1000, 2000], [-40.5, -8], "labs_games.Rescue")
    means = {"team": -8.5, "random": -42.0, "cut": -18.0}
    levels = read_levels(write_evaluation(tmp_path / "e", "return_team", means, game="labs_games.Rescue"))
    assert levels == Levels({"random": -42.0}, "labs_games.Rescue")
    (axes,) = draw_curves({"a": curve, "b": read_curve(write_other(tmp_path / "b", game=None))}, levels).axes
    low, high = axes.get_ylim()
    assert low < -42 - 1
    assert high > 0
    assert axes.get_ylabel() == "return per agent of the team\n(the game's own reward, training policy)"
    assert [text.get_text() for text in axes.texts] == ["random: -42"]
    (axes,) = draw_curves({"a": Curve([1], [0.25], "x.Y")}, Levels({"random": 0.125}, "x.Y")).axes
    assert [text.get_text() for text in axes.texts] == ["random: 0.12"]


@pytest.mark.parametrize("games", [("labs_games.Rescue", "x.Y"), ("labs_games.Rescue", "tag"), (OTHER_GAME, "tag")])
def test_different_games_are_not_drawn_into_one_figure(games: tuple[str, str]) -> None:
    first, second = games
    curves = {"a": Curve([1], [2.0], first), "b": Curve([1], [2.0], second)}
    with pytest.raises(ConfigError, match=rf"^plot: expected results of one game, got a of {first}, b of {second}\."):
        draw_curves(curves, None)
    with pytest.raises(ConfigError, match=rf"got a of {first}, --levels of {second}\."):
        draw_curves({"a": curves["a"]}, Levels({"random": 1.0}, second))


def test_levels_that_cannot_be_drawn_are_said(tmp_path: Path) -> None:
    found = write_evaluation(tmp_path / "e", "return_adversary", {"team": 3.0, "cut": 2.0})
    with pytest.raises(ConfigError, match=r"--levels: expected an evaluation with baselines, .* has only team, cut"):
        read_levels(found)
    with pytest.raises(ConfigError, match=r"in .*nowhere, got: No such file or directory\. Give the folder"):
        read_levels(tmp_path / "nowhere")
    (found / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"in .*summary\.json, got: no 'summary'\. Give the folder"):
        read_levels(found)


def test_what_is_not_a_curve_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a trial's folder, got .*nowhere, which does not exist"):
        read_curve(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="expected the results of one trial"):
        read_curve(tmp_path)
    (tmp_path / "progress.csv").write_text("timesteps_total\n100\n")
    with pytest.raises(ConfigError, match=r"expected a readable result\.json or progress\.csv"):
        read_curve(tmp_path)
    (tmp_path / "progress.csv").write_text(f"{COLUMNS},{EPISODE_REWARD}\n1,100,,nan\n")
    with pytest.raises(ConfigError, match=r"expected returns under .* found none: no episode has ended"):
        read_curve(tmp_path)
    (tmp_path / "progress.csv").write_text(f"{COLUMNS},{EPISODE_REWARD}\n1,100,,40.0\n")
    with pytest.raises(ConfigError, match=r"found none: train with rllib_tag\.TagCallbacks"):
        read_curve(tmp_path)
    (tmp_path / "progress.csv").write_text(f"{COLUMNS}\n1,100,done\n")
    with pytest.raises(ConfigError, match="expected steps and returns in"):
        read_curve(tmp_path)
    with pytest.raises(ConfigError, match="suffix: expected one of"):
        save_figure(draw_curves({"a": Curve([1], [1.0])}, None), tmp_path / "curve.nonsense")
    with pytest.raises(ConfigError, match=r"expected a summary\.json"):
        read_summary(tmp_path)
