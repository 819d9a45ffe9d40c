"""How a trial that Tune calls terminated has ended."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

from ray.tune.experiment import Trial

from rllib_tag.places import Place
from rllib_tag.training.train import _trial_end


def test_a_trial_in_which_nothing_was_played_has_failed(tmp_path: Path) -> None:
    names = Mock(experiment_dir_name="experiment", trial_dir_name="trial")
    for steps, status in ((7, "TERMINATED"), (0, "ERROR")):
        result = {"done": True, "training_iteration": 3, "timesteps_total": 0, "num_env_steps_sampled": steps}
        trial = Mock(
            status=Trial.TERMINATED, error_file=None, last_result=result, storage=names, local_path=str(tmp_path)
        )
        end = _trial_end(trial, Place.at(str(tmp_path)))
        assert end.status == status
    assert "env runners: expected environment steps, got none" in end.error
