"""Shipped experiments made small enough for a test, and training them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import EXPERIMENTS

from rllib_tag.experiment.spec import load_experiments
from rllib_tag.training.train import TrainOptions, TrialEnd, train


def small(name: str, num_env_runners: int = 0, **model: Any) -> dict[str, dict[str, Any]]:
    """A shipped experiment with a batch small enough for a test; everything else as shipped.

    Without env runners, a trial samples in its own process, and the test does not wait for another one.
    """
    experiments = load_experiments(EXPERIMENTS / f"{name}.yaml")
    (config,) = (spec["config"] for spec in experiments.values())
    config.update(
        num_env_runners=num_env_runners, num_envs_per_env_runner=2, train_batch_size=200, minibatch_size=100,
        num_epochs=2,
    )  # fmt: skip
    config["model"]["custom_model_config"].update(model)
    return experiments


def run(experiments: dict[str, dict[str, Any]], folder: Path, iterations: int = 1, **options: Any) -> TrialEnd:
    """Trains a single trial for some iterations."""
    given = TrainOptions(stop={"training_iteration": iterations}, storage_path=str(folder), **options)
    for spec in experiments.values():
        del spec["stop"]
    (end,) = train(experiments, given, lambda *_: None)
    assert end.status == "TERMINATED", end.error
    return end
