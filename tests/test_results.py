"""Results as Tune's loggers write them, whole and cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.report.curve import Curve, read_curve
from rllib_tag.results import RETURN, env_steps, parse_results, read_results, result_files, with_number


def line(iteration: int, value: float | None, steps: int = 7) -> str:
    """A line of a `result.json`, in which agents' steps are counted."""
    result = {
        "training_iteration": iteration, "timesteps_total": 5 * steps * iteration, "time_total_s": 1.5,
        "num_env_steps_sampled": steps * iteration, "num_env_steps_sampled_lifetime": 5 * steps * iteration,
        "env_runners": {"custom_metrics": {} if value is None else {"return_adversary_mean": value}},
        "config": {"lr": 0.1},
    }  # fmt: skip
    return json.dumps(result) + "\n"


def test_what_is_missing_in_the_first_result_is_read_in_later_ones(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(line(1, None) + line(2, float("nan")) + line(3, 11.0) + line(4, 13.0))
    (tmp_path / "progress.csv").write_text("training_iteration,timesteps_total\n1,7\n2,14\n")
    assert result_files(tmp_path) == [tmp_path / "result.json"]
    assert read_curve(tmp_path) == Curve([21, 28], [11.0, 13.0])  # environment steps, not agents'
    assert "config/lr" not in read_results(tmp_path / "result.json")[0]


def test_a_killed_and_resumed_trials_later_results_count() -> None:
    text = line(1, 1.0) + line(2, 2.0) + line(3, 3.0) + line(4, 4.0)[:40] + "\n" + line(2, 20.0) + line(3, 3.0)[:-9]
    results = parse_results(text)
    assert [(result["training_iteration"], result[RETURN]) for result in results] == [(1, 1.0), (2, 20.0)]
    assert parse_results("") == []


def test_a_csv_has_numbers(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text(f"training_iteration,timesteps_total,done,{RETURN}\n1,13,True,2.5\n2,17,,\n")
    first, second = read_results(tmp_path / "progress.csv")
    assert (env_steps(first), first["done"], first[RETURN]) == (13, True, 2.5)
    assert with_number([first, second], RETURN) == [first]


def test_a_trials_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere [1]").mkdir()
    (tmp_path / "elsewhere [1]" / "result.json").write_text(line(1, 1.0))
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "trial").symlink_to(tmp_path / "elsewhere [1]")
    assert result_files(tmp_path / "experiment") == [tmp_path / "experiment" / "trial" / "result.json"]
    assert len(result_files(tmp_path)) == 1
    assert len(result_files(tmp_path / "elsewhere [1]")) == 1


@pytest.mark.parametrize("text", ["[1]\n", "no result\n", '{"iteration": 1}\n'])
def test_what_is_not_a_file_of_results_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ConfigError, match=r"expected a readable result\.json or progress\.csv, got .*result\.json"):
        read_results(tmp_path / "result.json")
