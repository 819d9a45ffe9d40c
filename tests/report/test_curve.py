from __future__ import annotations

from pathlib import Path

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.report.curve import draw_curves, read_curve
from rllib_tag.report.table import read_summary
from rllib_tag.results import EPISODE_REWARD, RETURN

COLUMNS = f"training_iteration,timesteps_total,{RETURN}"


def test_curves_are_read_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "progress.csv").write_text(f"{COLUMNS}\n1,100,1.5\n2,200,\n3,300,9.5\n3,300,4.5\n")
    curve = read_curve(tmp_path)
    assert curve == ([100, 300], [1.5, 4.5])
    images = draw_curves({"a": curve, "b": curve}, {"random": 2.0}, tmp_path / "new" / "curve")
    assert [image.name for image in images] == ["curve.png", "curve.svg"]
    assert all(image.stat().st_size > 5000 for image in images)
    before = images[1].read_text()
    draw_curves({"a": curve, "b": curve}, {"random": 2.0}, images[1])
    assert images[1].read_text() == before  # no date, no random names


def test_more_series_than_colours_are_all_drawn_and_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("rllib_tag.report.curve.save_figure", lambda figure, out: figures.append(figure))
    draw_curves({f"run {i}": ([0, 1000], [i, i + 1.0]) for i in range(23)}, {}, tmp_path)
    (axes,) = figures[0].axes
    assert [line.get_label() for line in axes.lines] == [f"run {i}" for i in range(23)]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 23


def test_what_is_not_a_curve_is_named(tmp_path: Path) -> None:
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
        draw_curves({"a": ([1], [1.0])}, {}, tmp_path / "curve.nonsense")
    with pytest.raises(ConfigError, match=r"expected a summary\.json"):
        read_summary(tmp_path)
