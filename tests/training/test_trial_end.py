"""How a trial that Tune calls terminated has ended."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
from ray.tune.experiment import Trial
from small_runs import run, small
from typer import Exit

from rllib_tag.cli.commands import _train
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.places import Place
from rllib_tag.training.train import TrialEnd, _trial_end


def test_a_trial_in_which_nothing_was_played_has_failed(tmp_path: Path) -> None:
    names = Mock(experiment_dir_name="experiment", trial_dir_name="trial")
    for steps, status in ((7, "TERMINATED"), (0, "ERROR")):
        result = {"done": True, "training_iteration": 3, "timesteps_total": 0, "num_env_steps_sampled": steps}
        trial = Mock(
            status=Trial.TERMINATED, error_file=None, last_result=result, storage=names, local_path=str(tmp_path)
        )
        trial.run_metadata.checkpoint_manager.latest_checkpoint_result = None
        end = _trial_end(trial, Place.at(str(tmp_path)))
        assert end.status == status
    assert "env runners: expected environment steps, got none" in end.error


def test_a_finished_run_has_nothing_to_resume(ray_session: None, tmp_path: Path) -> None:
    first = run(small("tag_quick"), tmp_path)
    again = run(small("tag_quick"), tmp_path, resume=True)
    assert (first.is_new, first.is_recorded, first.checkpoint_steps) == (True, True, 200)
    assert (again.is_new, again.is_recorded, again.checkpoint_steps) == (False, True, 200)
    assert again.place.location == first.place.location


@pytest.mark.parametrize(
    ("status", "is_new", "checkpoint_steps", "told"),
    [
        ("TERMINATED", True, 3000, "done: {trial}\n"),
        (
            "TERMINATED",
            False,
            3000,
            "already finished: {trial}; its results are there, and there is nothing to resume.",
        ),
        ("INTERRUPTED", True, 3000, "with --resume and the same options; its last checkpoint is at 3,000 steps\n"),
        ("INTERRUPTED", True, None, "; it has no checkpoint yet, so it will start over\n"),
    ],
)
def test_the_command_says_how_a_trial_ended(
    status: str,
    is_new: bool,
    checkpoint_steps: int | None,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = TrialEnd(Place.at(str(tmp_path / "trial")), status, {}, None, True, is_new, checkpoint_steps)
    monkeypatch.setattr("rllib_tag.training.train.train", lambda *_: [end])
    if status == "INTERRUPTED":
        with pytest.raises(Exit):
            _train({}, TrainOptions())
    else:
        _train({}, TrainOptions())
    assert told.format(trial=tmp_path / "trial") in capsys.readouterr().out
