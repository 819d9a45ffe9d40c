"""Weights & Biases, MLflow and TensorBoard get a run's figures, without a network."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from small_runs import run, small

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.loggers import check_loggers
from rllib_tag.training.train import TrialEnd

METRIC = "env_runners/custom_metrics/return_adversary_mean"


def test_tensorboard_files_hold_the_figures(trained: TrialEnd) -> None:
    (events,) = trained.folder.glob("events.out.tfevents.*")
    assert f"ray/tune/{METRIC}".encode() in events.read_bytes()


@pytest.mark.nightly
def test_offline_loggers_hold_the_figures(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("WANDB_MODE", "online")  # the file's mode wins
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    experiments = small("tag_quick")
    experiments["tag_quick"]["loggers"] = {
        "wandb": {"project": "tag", "mode": "offline", "dir": str(tmp_path)},
        "mlflow": {"tracking_uri": f"file://{tmp_path}/mlruns", "experiment_name": "tag"},
    }
    end = run(copy.deepcopy(experiments), tmp_path / "results", iterations=2)
    assert os.environ["WANDB_MODE"] == "online"
    client = mlflow.MlflowClient(f"file://{tmp_path}/mlruns")
    (found,) = client.search_runs([client.get_experiment_by_name("tag").experiment_id])
    history = client.get_metric_history(found.info.run_id, METRIC)
    last = end.result["env_runners"]["custom_metrics"]["return_adversary_mean"]
    assert len(history) == 2
    assert history[-1].value == pytest.approx(last)
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"return_adversary_mean" in written.read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wandb", "loggers: expected a mapping"),
        ({"wandb": None}, "loggers: expected a mapping"),
        ({"wnadb": {}}, "Did you mean 'wandb'"),
        ({"wandb": {"projct": "tag"}}, "loggers: wandb: unknown key 'projct'. Did you mean 'project'"),
        ({"wandb": {"mode": "off"}}, "loggers: wandb: mode"),
        ({"wandb": {"mode": "offline"}}, "loggers: wandb: expected a project, .* got: Please pass the project name"),
        ({"wandb": {"mode": "offline", "project": 3}}, "loggers: wandb: project: expected a name, got 3"),
        ({"wandb": {"project": "tag"}}, "loggers: wandb: expected a project, and a key .* got: No WandB API key found"),
        ({"wandb": {"project": "tag", "api_key_file": "/no/such/file"}}, "loggers: wandb: .* got: .*/no/such/file"),
        ({"wandb": {"project": "tag", "api_key": "x"}}, "loggers: wandb: unknown key 'api_key'"),
        ({"wandb": {"project": "tag", "upload_checkpoints": True}}, "loggers: wandb: unknown key 'upload_checkpoints'"),
        ({"mlflow": {"tracking_token": "x"}}, "loggers: mlflow: unknown key 'tracking_token'"),
        ({"mlflow": {"uri": "x"}}, "loggers: mlflow: unknown key 'uri'"),
    ],
)
def test_wrong_loggers_are_refused(given: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match=message):
        check_loggers(given)


def test_a_project_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT_NAME", "tag")
    check_loggers({"wandb": {"mode": "offline"}})


def test_a_logger_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rllib_tag.experiment.loggers.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'rllib_tag\[mlflow\]'"):
        check_loggers({"mlflow": {}})
