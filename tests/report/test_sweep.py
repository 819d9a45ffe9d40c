"""Reports of sweeps, from folders as Tune writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib.image as mpimg
import pytest
from typer.testing import CliRunner

from rllib_tag.cli import app
from rllib_tag.errors import ConfigError
from rllib_tag.report.figures import save_figure
from rllib_tag.report.sweep import LAST, draw_sweep, read_sweep, sweep_table
from rllib_tag.results import EPISODE_REWARD, RETURN


def write_trial(folder: Path, name: str, config: dict, returns: list[float | None], done: bool = True) -> None:
    """A trial's files after one iteration of 100 steps for each return."""
    (folder / name).mkdir(parents=True)
    (folder / name / "params.json").write_text(json.dumps(config))
    lines = []
    for i, value in enumerate(returns, 1):
        result = {
            "training_iteration": i, "num_env_steps_sampled": 100 * i, "timesteps_total": 500 * i,
            "time_total_s": 7.0 * i, "done": done and i == len(returns),
            "env_runners": {"episode_reward_mean": 3.0 * i},
        }  # fmt: skip
        if value is not None:
            result["env_runners"]["custom_metrics"] = {"return_adversary_mean": value}
        lines.append(json.dumps(result) + "\n")
    (folder / name / "result.json").write_text("".join(lines))


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
        "trial": "t1", "lr": 0.01, "model/net/gnn": "gcn", "env_steps": 300, "seconds": 21.0, "finished": False,
        RETURN: 12.0,
    }  # fmt: skip
    assert second[RETURN] == 5.0  # of the last five iterations
    assert [row["trial"] for row in read_sweep(folder, mode="min").rows] == ["t2", "t0", "t1"]


def test_a_metric_may_be_missing_in_the_first_results_and_in_the_last(tmp_path: Path) -> None:
    write_trial(tmp_path, "late", {"lr": 0.1}, [None, None, 7.0, 9.0])
    write_trial(tmp_path, "early", {"lr": 0.2}, [1.0, 3.0, *[None] * 5])
    write_trial(tmp_path, "none", {"lr": 0.3}, [None])
    sweep = read_sweep(tmp_path)
    assert [(row["trial"], row[RETURN]) for row in sweep.rows[:2]] == [("late", 8.0), ("early", 2.0)]
    assert math.isnan(sweep.rows[2][RETURN])


def test_without_callbacks_trials_are_compared_by_rllibs_reward(tmp_path: Path) -> None:
    write_trial(tmp_path, "short", {"lr": 0.1}, [None])
    write_trial(tmp_path, "long", {"lr": 0.2}, [None] * 3)
    sweep = read_sweep(tmp_path)
    assert [(row["trial"], row[EPISODE_REWARD]) for row in sweep.rows] == [("long", 6.0), ("short", 3.0)]
    (tmp_path / "run_1.json").write_text('{"experiment": {"metric": "captured_mean"}}')
    with pytest.raises(
        ConfigError, match=r"^metric: expected results with captured_mean, found none"
    ):  # nobody gave --metric
        read_sweep(tmp_path)


def test_the_table_and_the_figure_show_every_trial(folder: Path) -> None:
    sweep = read_sweep(folder)
    table = sweep_table(sweep)
    assert (table.row_count, table.title) == (3, "3 trials, 1 unfinished")
    assert table.caption == "return_adversary_mean: the mean over each trial's last 5 iterations that have it"
    said = " ".join(CliRunner().invoke(app, ["sweep", "report", "--help"]).output.split())
    assert f"mean over each trial's last {LAST} iterations" in said
    best = sweep_table(sweep, most=2)
    assert (best.row_count, best.title) == (2, "the best 2 of 3 trials, 1 unfinished")
    png, svg = save_figure(draw_sweep(sweep), folder / "sweep")
    assert mpimg.imread(png)[..., :3].std() > 0
    assert svg.read_text().count("<use") >= 6  # a dot a trial in both panels, beside the ticks


def test_a_trial_at_infinity_has_its_dot(tmp_path: Path) -> None:
    values = [0.5, math.inf, 2, None, 11]
    for i, value in enumerate(values):
        write_trial(tmp_path, f"t{i}", {"range": value}, [3.0 + 10 * (value == math.inf)])
    sweep = read_sweep(tmp_path)
    assert sweep.rows[0]["range"] == math.inf
    axes = draw_sweep(sweep).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5", "2", "11", "inf", "None"]
    (best,), others = (collection.get_offsets().tolist() for collection in axes.collections)
    assert best == [3, 13.0]
    assert sorted(x for x, _ in others) == [0, 1, 2, 4]


def test_what_cannot_be_reported_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'time_total'. Did you mean 'time_total_s'"):
        read_sweep(folder, "time_total")
    with pytest.raises(ConfigError, match="expected a metric of numbers, got done"):
        read_sweep(folder, "done")
    with pytest.raises(ConfigError, match=r"--mode: .* got 'best'"):
        read_sweep(folder, mode="best")
    with pytest.raises(ConfigError, match=r"expected an experiment's folder, got .*nowhere, which does not exist"):
        read_sweep(folder / "nowhere")
    with pytest.raises(ConfigError, match="expected trials with results in"):
        read_sweep(folder / "t3")
    (folder / "t0" / "params.json").write_text("[")
    with pytest.raises(ConfigError, match=r"expected a trial's config in .*t0"):
        read_sweep(folder)


def test_a_sweep_of_one_has_nothing_to_draw(tmp_path: Path) -> None:
    write_trial(tmp_path, "t", {"lr": 0.1}, [1.0])
    with pytest.raises(ConfigError, match="There is nothing to draw"):
        draw_sweep(read_sweep(tmp_path))
