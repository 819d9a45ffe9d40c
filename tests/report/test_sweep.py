"""Reports of sweeps, from folders as Tune writes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import matplotlib.image as mpimg
import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.report.curve import Y
from rllib_tag.report.sweep import draw_sweep, read_sweep, sweep_table


def write_trial(folder: Path, name: str, config: dict, returns: list[float], done: bool = True) -> None:
    """A trial's files after one iteration of 100 steps for each return."""
    (folder / name).mkdir(parents=True)
    (folder / name / "params.json").write_text(json.dumps(config))
    rows = [
        {"timesteps_total": 100 * i, "time_total_s": 7.0 * i, "done": done and i == len(returns), Y: value}
        for i, value in enumerate(returns, 1)
    ]
    with (folder / name / "progress.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, lr, gnn, returns, done in (
        ("t0", 0.001, "gat", [1, 2, 3, 4, 5, 6, 7], True),
        ("t1", 0.01, "gcn", [11, 12, 13], False),
        ("t2", 0.1, "gat", [-2, -2], True),
    ):
        config = {"lr": lr, "model": {"net": {"gnn": gnn, "hidden": 8}}, "policies": ["a", "b"]}
        write_trial(tmp_path, name, config, returns, done)
    (tmp_path / "t3").mkdir()  # a trial without a result yet
    (tmp_path / "t3" / "params.json").write_text("{}")
    return tmp_path


def test_trials_stand_best_first_with_what_differs(folder: Path) -> None:
    sweep = read_sweep(folder)
    assert sweep.varied == ["lr", "model/net/gnn"]
    assert [row["trial"] for row in sweep.rows] == ["t1", "t0", "t2"]
    first, second, _ = sweep.rows
    assert first == {
        "trial": "t1", "lr": 0.01, "model/net/gnn": "gcn", "env_steps": 300, "seconds": 21.0, "finished": False, Y: 12.0
    }  # fmt: skip
    assert second[Y] == 5.0  # of the last five iterations
    assert [row["trial"] for row in read_sweep(folder, mode="min").rows] == ["t2", "t0", "t1"]


def test_the_table_and_the_figure_show_every_trial(folder: Path) -> None:
    sweep = read_sweep(folder)
    table = sweep_table(sweep)
    assert (table.row_count, table.title) == (3, "3 trials, 1 unfinished")
    best = sweep_table(sweep, most=2)
    assert (best.row_count, best.title) == (2, "the best 2 of 3 trials, 1 unfinished")
    png, svg = draw_sweep(sweep, folder / "sweep")
    assert mpimg.imread(png)[..., :3].std() > 0
    assert svg.read_text().count("<use") >= 6  # a dot a trial in both panels, beside the ticks


def test_what_cannot_be_reported_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'time_total'. Did you mean 'time_total_s'"):
        read_sweep(folder, "time_total")
    with pytest.raises(ConfigError, match="expected a metric of numbers, got done"):
        read_sweep(folder, "done")
    with pytest.raises(ConfigError, match=r"--mode: .* got 'best'"):
        read_sweep(folder, mode="best")
    with pytest.raises(ConfigError, match="expected trials with results in"):
        read_sweep(folder / "nowhere")
    (folder / "t0" / "params.json").write_text("[")
    with pytest.raises(ConfigError, match=r"expected the files of a Tune trial in .*t0"):
        read_sweep(folder)


def test_a_sweep_of_one_has_nothing_to_draw(tmp_path: Path) -> None:
    write_trial(tmp_path, "t", {"lr": 0.1}, [1.0])
    with pytest.raises(ConfigError, match="Nothing to draw"):
        draw_sweep(read_sweep(tmp_path), tmp_path / "sweep")
