from __future__ import annotations

from pathlib import Path

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.report.curve import X, Y, draw_curves, read_curve
from rllib_tag.report.table import read_summary


def test_curves_are_read_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "progress.csv").write_text(f"{X},{Y}\n100,1.5\n200,\n300,9.5\n300,4.5\n")
    curve = read_curve(tmp_path)
    assert curve == ([100, 300], [1.5, 4.5])
    images = draw_curves({"a": curve, "b": curve}, {"random": 2.0}, tmp_path / "new" / "curve")
    assert [image.name for image in images] == ["curve.png", "curve.svg"]
    assert all(image.stat().st_size > 5000 for image in images)
    before = images[1].read_text()
    draw_curves({"a": curve, "b": curve}, {"random": 2.0}, images[1])
    assert images[1].read_text() == before  # no date, no random names


def test_what_is_not_a_curve_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected one progress\.csv"):
        read_curve(tmp_path)
    (tmp_path / "progress.csv").write_text(f"{X}\n100\n")
    with pytest.raises(ConfigError, match="expected figures under"):
        read_curve(tmp_path)
    (tmp_path / "progress.csv").write_text(f"{X},{Y}\n100,1\n")
    with pytest.raises(ConfigError, match="expected a writable image"):
        draw_curves({"a": ([1], [1.0])}, {}, tmp_path / "curve.nonsense")
    with pytest.raises(ConfigError, match=r"expected a summary\.json"):
        read_summary(tmp_path)
