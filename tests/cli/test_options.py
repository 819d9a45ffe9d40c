"""Options that several commands take are declared once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rllib_tag.cli import commands
from rllib_tag.experiment.options import TrainOptions

GIVEN = [
    "--stop", '{"contacts_mean": 3}', "-n", "name", "--local-dir", "folder", "--num-samples", "5",
    "--no-checkpoint-at-end", "--resume", "--scheduler-config", '{"max_t": 7}', "--ray-num-cpus", "11", "-vv",
]  # fmt: skip
TAKEN = TrainOptions(
    stop={"contacts_mean": 3}, experiment_name="name", storage_path="folder", num_samples=5, checkpoint_at_end=False,
    resume=True, scheduler_config={"max_t": 7}, ray_num_cpus=11, log_debug=True,
)  # fmt: skip


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], TrainOptions]]:
    """What `rllib train` is asked for, which it does not do."""
    out: list[tuple[dict[str, Any], TrainOptions]] = []
    monkeypatch.setattr(commands, "_train", lambda *given: out.append(given))
    return out


def test_both_forms_of_train_take_the_same_options(taken: list[Any], tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("x: {}")
    for form in (["train", "-a", "PPO", "-e", "E", "-c", '{"lr": 13}'], ["train", "file", str(tmp_path / "file.yaml")]):
        for options in (GIVEN, []):
            done = CliRunner().invoke(commands.app, [*form, *options])
            assert done.exit_code == 0, done.output
    spec = {"run": "PPO", "env": "E", "config": {"lr": 13}}
    assert taken == [
        ({"name": spec}, TAKEN), ({"default": spec}, TrainOptions()), ({"x": {}}, TAKEN), ({"x": {}}, TrainOptions()),
    ]  # fmt: skip
    assert [dataclasses.replace(TAKEN, log_debug=False, log_info=info).verbose for info in (False, True)] == [0, 1]
    assert TAKEN.verbose == 2


def test_baselines_may_still_be_called_yardsticks(tmp_path: Path) -> None:
    options = ["--baseline", "random", "--yardstick", "all_chase", "--episodes", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(commands.app, ["evaluate", *options])
    assert done.exit_code == 0, done.output
    assert list(json.loads((tmp_path / "summary.json").read_text())["summary"]) == ["team", "random", "all_chase"]
    said = CliRunner().invoke(commands.app, ["evaluate", "--help"]).output
    assert "--baseline" in said
    assert "yardstick" not in said


@pytest.mark.parametrize("form", ["train", "train file"])
def test_help_tells_every_option(form: str) -> None:
    said = " ".join(CliRunner().invoke(commands.app, [*form.split(), "--help"]).output.split())
    for field in dataclasses.fields(TrainOptions):
        assert all(name in said for declared in field.metadata["names"] for name in declared.split("/"))
        assert field.metadata["help"] in said
