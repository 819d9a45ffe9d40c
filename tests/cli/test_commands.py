"""The real command, in fresh processes: train, interrupt, resume, restore, evaluate, roll out, export, plot."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import small
from typer.testing import CliRunner

from rllib_tag import evaluate
from rllib_tag.cli import app
from rllib_tag.errors import ConfigError

RLLIB = Path(sys.executable).parent / "rllib"


def rllib(*arguments: str | Path, cwd: Path, status: int = 0) -> str:
    done = subprocess.run([RLLIB, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A small run that was interrupted from the keyboard and then resumed to its end."""

    folder: Path
    first: list[str]
    status: int
    resumed: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("cli")
    experiments = small("tag_quick", num_env_runners=1)
    checkpoints = {"checkpoint_frequency": 1, "checkpoint_at_end": True, "num_to_keep": 2}
    experiments["tag_quick"].update(stop={"training_iteration": 8}, checkpoint_config=checkpoints)
    experiments["tag_quick"]["config"]["env_config"]["max_cycles"] = 25
    (folder / "quick.yaml").write_text(yaml.safe_dump(experiments))
    train = [RLLIB, "train", "file", "quick.yaml", "--storage-path", "results"]
    with subprocess.Popen(train, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) == 4:
                process.send_signal(signal.SIGINT)
        status = process.wait(timeout=120)
    resumed = subprocess.run([*train, "--resume"], cwd=folder, capture_output=True, text=True, timeout=300)
    return Interrupted(folder, lines, status, resumed)


@pytest.fixture(scope="module")
def folder(interrupted: Interrupted) -> Path:
    return interrupted.folder


def test_an_interrupted_run_goes_on_where_it_was(interrupted: Interrupted) -> None:
    assert interrupted.status == 130, interrupted.first
    kept = re.search(
        r"continue with --resume and the same options; its last checkpoint is at ([\d,]+) steps$", interrupted.first[-1]
    )
    assert "Traceback" not in "".join(interrupted.first)
    resumed = interrupted.resumed
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    begun = int(resumed.stdout.split(" steps")[0].split()[-1].replace(",", ""))
    assert 400 <= begun <= 1400
    assert begun == int(kept[1].replace(",", "")) + 200
    (trial,) = (interrupted.folder / "results" / "tag_quick").glob("TeamPPO_*")
    steps = [json.loads(line)["timesteps_total"] for line in (trial / "result.json").read_text().splitlines()]
    assert steps[-1] == 1600
    assert sorted(set(steps)) == list(range(200, 1601, 200))
    assert len(list((interrupted.folder / "results" / "tag_quick").glob("run_*.json"))) == 2
    assert len(list(trial.glob("checkpoint_*"))) == 2


@pytest.mark.nightly
def test_a_living_run_keeps_others_out_and_sigterm_ends_it_like_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = small("tag_quick", num_env_runners=1)
    experiments["tag_quick"].update(stop={"training_iteration": 5000}, checkpoint_config={"checkpoint_frequency": 1})
    command = _training(experiments, tmp_path)
    with subprocess.Popen(
        [RLLIB, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=_ignore_ctrl_c
    ) as process:
        said = [process.stdout.readline() for _ in range(3)]
        for options in ([], ["--resume"]):
            result = CliRunner().invoke(app, [*command, *options])
            assert isinstance(result.exception, ConfigError)
            assert f"where process {process.pid} on " in str(result.exception)
        process.send_signal(signal.SIGTERM)
        said += process.stdout.readlines()
        status = process.wait(timeout=120)
    assert status == 143, said
    assert "continue with --resume" in said[-1]
    assert not any("SIGTERM received" in line or "Traceback" in line for line in said)
    folder = tmp_path / "results" / "tag_quick"
    assert not (folder / ".lock").exists()
    assert list(folder.glob("experiment_state-*.json"))


def test_sigterm_to_ray_as_well_ends_a_run_at_once(tmp_path: Path) -> None:
    """As Slurm's scancel sends it: to the command and to all processes that it started."""
    experiments = small("tag_quick")
    experiments["tag_quick"].update(stop={"training_iteration": 5000})
    command = _training(experiments, tmp_path)
    with subprocess.Popen(
        [RLLIB, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        said = [process.stdout.readline() for _ in range(3)]
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(timeout=20) == 143, said
        assert process.stdout.read().splitlines()[-1].startswith("interrupted, and so were Ray's processes; continue")


@pytest.mark.parametrize("after", [1.0, 2.5])
def test_sigterm_while_a_run_starts_ends_it(after: float, tmp_path: Path) -> None:
    experiments = small("tag_quick")
    experiments["tag_quick"].update(stop={"training_iteration": 50})
    command = _training(experiments, tmp_path)
    with subprocess.Popen([RLLIB, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not _catches(process.pid, signal.SIGTERM):  # Python itself is still starting
            time.sleep(0.01)
        time.sleep(after)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 143, said
        assert "Traceback" not in said


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of a signal."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), flags=re.M)
    return bool(int(caught, 16) >> (number - 1) & 1)


def _training(experiments: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """Writes a file of experiments, and returns the command that trains them."""
    (folder / "quick.yaml").write_text(yaml.safe_dump(experiments))
    return ["train", "file", str(folder / "quick.yaml"), "--storage-path", str(folder / "results")]


def _ignore_ctrl_c() -> None:
    """As a shell does for what it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_resuming_something_else_is_refused(folder: Path) -> None:
    arguments = [
        "train",
        "file",
        "quick.yaml",
        "--storage-path",
        "results",
        "--resume",
        "--stop",
        '{"training_iteration": 9}',
    ]
    done = subprocess.run([RLLIB, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert (
        "expected the experiment as it was started, got another stop (stop: training_iteration: 9 instead of 8)"
        in done.stderr
    )


def test_checkpoints_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    source = sorted((folder / "results" / "tag_quick").glob("TeamPPO_*/checkpoint_*"))[-1]
    truncated = shutil.copytree(source, tmp_path / "truncated")
    file = truncated / "policies" / "class_a" / "policy_state.pkl"
    file.write_bytes(file.read_bytes()[:1000])
    other = yaml.safe_load((folder / "quick.yaml").read_text())
    other["tag_quick"]["config"]["model"]["custom_model_config"]["hidden_dim"] = 32
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    for arguments, message in (
        (["evaluate", truncated], "expected a complete RLlib checkpoint"),
        (
            ["train", "file", tmp_path / "other.yaml", "--restore", source],
            "configured architecture of class_a (hidden_dim: 32)",
        ),
    ):
        done = subprocess.run([RLLIB, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.nightly
def test_a_restored_run_goes_on_from_the_checkpoint(folder: Path) -> None:
    out = rllib(
        "train", "file", "quick.yaml", "--storage-path", "restored", "--restore", "results/tag_quick",
        "--stop", '{"training_iteration": 9}', cwd=folder,
    )  # fmt: skip
    assert out.splitlines()[1] == "tag_quick: uses the batched sampler"
    assert "1,800 steps" in out.splitlines()[2]


def test_evaluate_rollout_export_and_plot(folder: Path) -> None:
    out = rllib(
        "evaluate", "results/tag_quick", "--episodes", "4", "--baseline", "random",
        "--num-class-a", "3", "--num-class-b", "1", cwd=folder,
    )  # fmt: skip
    assert "return per adversary" in out
    assert "wrote evaluation/episodes.csv, evaluation/summary.json and evaluation/marl_eval.json" in out
    with (folder / "evaluation" / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    here = evaluate(folder / "results", episodes=4, baselines=("random",), num_class_a=3, num_class_b=1)
    assert rows == [{key: str(value) for key, value in row.items()} for row in here.rows]  # as in this process
    content = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert content["env_config"]["num_class_a"] == 3
    assert content["command"][:2] == ["rllib", "evaluate"]
    assert "plays 3A + 1B against 1 random prey\n" in out
    assert "return per class" not in out  # it is the same number

    out = rllib("export", "results/tag_quick", "--out", "weights", cwd=folder)
    assert sorted(path.name for path in (folder / "weights").iterdir()) == [
        "class_a.critic.safetensors",
        "class_a.safetensors",
        "class_b.critic.safetensors",
        "class_b.safetensors",
        "manifest.json",
    ]

    out = rllib("rollout", "weights", "--seed", "5", cwd=folder)
    assert out.splitlines() == [
        "weights: trained on 2A + 2B against 1 random prey for 1,600 steps",
        "wrote rollout/episode_5.json and rollout/episode_5.gif",
    ]

    out = rllib(
        "evaluate", "weights", "--beside", "trained=results/tag_quick", "--messages", "all", "--episodes", "3",
        "--out", "messages", cwd=folder,
    )  # fmt: skip
    assert all(name in out for name in ("trained", "silence:adversary_3", "range:inf", "entropy of attention"))
    rows = (folder / "messages" / "influence.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3

    out = rllib("transfer", "weights", "--largest", "1", "--episodes", "2", "--native", "results/tag_quick", cwd=folder)
    assert out.endswith("\nwrote transfer/transfer.csv, transfer/transfer.png and transfer/transfer.svg\n")

    rllib("plot", "results/tag_quick", "--levels", "evaluation", "--out", "curve.png", cwd=folder)
    assert (folder / "curve.png").stat().st_size > 5000


def test_a_report_is_one_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for series in ("DELAYS", "DROPS", "RANGES"):
        monkeypatch.setattr(f"rllib_tag.playing.channel.{series}", (1.0,))
    monkeypatch.chdir(folder)
    out = CliRunner().invoke(app, ["report", "results/tag_quick", "--episodes", "2"]).output
    assert out.endswith("\nwrote report.html\n")
    page = (folder / "report.html").read_text()
    assert re.search(r"rllib evaluate results/tag_quick/\S+/checkpoint_\d+ --episodes 2 --seed 1000000 --b", page)
    assert re.search(r"<dd>results/tag_quick/\S+/checkpoint_\d+, after 1,600 environment steps</dd>", page)
    assert "<td>drop:1.0</td>" in page
    assert "custom_model: rllib_tag." in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--out", "file"], "expected a writable folder, got"),
        (["transfer", "--out", "taken"], "expected a place for a file, got the folder taken/transfer.csv"),
        (["rollout", "--seed", "7", "--out", "taken"], "got the folder taken/episode_7.gif"),
        (["export", "nowhere", "--out", "taken"], "expected a new folder or an earlier export, got taken"),
        (["plot", "nowhere", "--out", "curve.v2"], "got '.v2'"),
        (["plot", "nowhere", "--out", "."], "--out: expected a file, got '.'"),
        (
            ["sweep", "report", "nowhere", "--out", "a.png"],
            "expected a CSV, got a.png. Name a.csv; the plot goes next to it",
        ),
        (["report", "nowhere", "--out", "a.pdf"], "--out: expected an HTML page, got a.pdf. Name it a.html."),
        (["sweep", "report", "nowhere", "--out", "taken/"], "--out: expected a file, got 'taken/'"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("transfer.csv", "episode_7.gif"):
        (tmp_path / "taken" / name).mkdir(parents=True)
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)


def test_an_interrupted_transfer_leaves_an_earlier_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, on_game: Callable[[list[dict]], None], **options: object) -> None:
        on_game([{"num_class_a": 1}])
        raise KeyboardInterrupt

    monkeypatch.setattr("rllib_tag.playing.transfer.transfer", interrupted)
    for name in ("transfer.csv", "transfer.png", "transfer.svg"):
        (tmp_path / name).write_text("earlier")
    assert CliRunner().invoke(app, ["transfer", "--out", str(tmp_path)]).exit_code != 0
    assert {path.read_text() for path in tmp_path.iterdir()} == {"earlier"}
    assert len(list(tmp_path.iterdir())) == 3


COMMANDS = (
    "train", "train file", "evaluate", "transfer", "rollout", "play", "export", "plot", "report", "sweep report",
    "example", "example run",
)  # fmt: skip


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_in_characters_that_every_terminal_has(command: str) -> None:
    said = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert "Usage: " in said
    assert said.isascii()


def test_help_and_version(folder: Path) -> None:
    said = rllib("evaluate", "--episodes", "2", "--out", "shipped", cwd=folder)
    assert said.startswith("generalist: trained on 1-4A + 1-4B against 1-3 random prey for 4,006,400 steps")
    assert "evaluate" in rllib("--help", cwd=folder)
    assert "--checkpoint-freq" in rllib("train", "file", "--help", cwd=folder)
    assert rllib("--version", cwd=folder).strip() == "0.2.0"
