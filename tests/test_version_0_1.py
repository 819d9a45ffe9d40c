"""What version 0.1 wrote is read, and acts as it did then."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_tag import restore
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.playing.rollout import record_episode
from rllib_tag.plugin.ray_internals import RAY_VERSION
from rllib_tag.training.train import train


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and exports of two runs, their experiment files, and what their teams did in an episode."""
    folder = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(Path(__file__).parent / "data" / "version_0_1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


needs_ray = pytest.mark.skipif(RAY_VERSION < (2, 60), reason="the checkpoints are of Ray 2.60")
KINDS = ["exported", pytest.param("checkpoint", marks=needs_ray)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["arrays", "mpe2"])
def test_teams_act_as_they_did(written: Path, kind: str, name: str) -> None:
    team = restore(written / f"{kind}_{name}")
    then = json.loads((written / "acted.json").read_text())[name]
    now = record_episode(team, 7, dict(team.env_config))
    assert now["links"] == then["links"]
    np.testing.assert_allclose(now["attention"][-1], then["attention"], atol=1e-4)
    for ours, theirs in zip(now["actions"], then["actions"], strict=True):
        assert ours.keys() == theirs.keys()
        for agent, action in theirs.items():
            np.testing.assert_allclose(ours[agent], action, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["arrays", "mpe2"])
def test_training_starts_from_them(written: Path, kind: str, name: str, tmp_path: Path, ray_session: None) -> None:
    experiments = {name: load_experiments(written / "experiments.yaml")[name]}
    told: list[Any] = []
    was = {"encoder": "class", "frame": "absolute"}  # these keys are newer than the file, and have other defaults
    for experiment in experiments.values():
        experiment["config"]["model"]["custom_model_config"].update(was)
    options = TrainOptions(
        restore=str(written / f"{kind}_{name}"), storage_path=str(tmp_path), stop={"training_iteration": 3}
    )
    (end,) = train(experiments, options, lambda *_: None, told.append)
    assert end.status == "TERMINATED", end.error
    assert end.result["timesteps_total"] == 120  # from the checkpoint, two of three iterations are there
