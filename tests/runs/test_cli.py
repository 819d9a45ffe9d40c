"""The real command, in fresh processes: train, interrupt, resume, restore, evaluate, roll out, export, plot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .conftest import small

RLLIB = Path(sys.executable).parent / "rllib"


def rllib(*arguments: str | Path, cwd: Path, status: int = 0) -> str:
    done = subprocess.run([RLLIB, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small run was interrupted from the keyboard and then resumed to its end."""
    folder = tmp_path_factory.mktemp("cli")
    experiments = small("tag_quick")
    spec = experiments["tag_quick"]
    spec.update(
        stop={"training_iteration": 8}, checkpoint_config={"checkpoint_frequency": 1, "checkpoint_at_end": True}
    )
    (folder / "quick.yaml").write_text(yaml.safe_dump(experiments))
    return folder


def test_an_interrupted_run_goes_on_where_it_was(folder: Path) -> None:
    train = [RLLIB, "train", "file", "quick.yaml", "--storage-path", "results"]
    with subprocess.Popen(
        train,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) == 3:
                process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, "".join(lines)
    assert "go on with --resume" in lines[-1]
    assert "Traceback" not in "".join(lines)
    done = subprocess.run([*train, "--resume"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    first = int(done.stdout.split(" steps")[0].split()[-1].replace(",", ""))
    assert 400 <= first <= 1400
    (trial,) = (folder / "results" / "tag_quick").glob("PPO_*")
    steps = [json.loads(line)["timesteps_total"] for line in (trial / "result.json").read_text().splitlines()]
    assert steps[-1] == 1600
    assert sorted(set(steps)) == list(range(200, 1601, 200))
    assert len(list((folder / "results" / "tag_quick").glob("run_*.json"))) == 2


def test_a_restored_run_goes_on_from_the_checkpoint(folder: Path) -> None:
    out = rllib(
        "train", "file", "quick.yaml", "--storage-path", "restored", "--restore", "results/tag_quick",
        "--stop", '{"training_iteration": 9}', cwd=folder,
    )  # fmt: skip
    assert "1,800 steps" in out.splitlines()[0]


def test_evaluate_rollout_export_and_plot(folder: Path) -> None:
    out = rllib(
        "evaluate", "results/tag_quick", "--episodes", "4", "--yardstick", "random",
        "--num-class-a", "3", "--num-class-b", "1", cwd=folder,
    )  # fmt: skip
    assert "return per adversary" in out
    assert "wrote evaluation/episodes.csv and evaluation/summary.json" in out
    content = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert content["env_config"]["num_class_a"] == 3
    assert content["command"][:2] == ["rllib", "evaluate"]

    out = rllib("export", "results/tag_quick", "--out", "weights", cwd=folder)
    assert sorted(path.name for path in (folder / "weights").iterdir()) == [
        "class_a.safetensors",
        "class_b.safetensors",
        "manifest.json",
    ]

    out = rllib("rollout", "weights", "--seed", "5", cwd=folder)
    assert out == "wrote rollout/episode_5.json\nwrote rollout/episode_5.gif\n"

    rllib("plot", "results/tag_quick", "--levels", "evaluation", "--out", "curve.png", cwd=folder)
    assert (folder / "curve.png").stat().st_size > 5000


def test_help_and_version(folder: Path) -> None:
    assert "evaluate" in rllib("--help", cwd=folder)
    assert "--checkpoint-freq" in rllib("train", "file", "--help", cwd=folder)
    assert rllib("--version", cwd=folder).strip() == "0.1.0"
