"""What is told of a run that waits."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from ray.util import placement_group, remove_placement_group
from small_runs import small

from rllib_tag.training import watch
from rllib_tag.training.train import TrainOptions, train


@pytest.mark.nightly
def test_a_run_that_waits_for_others_says_so(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 0.5)
    others = placement_group([{"CPU": 1}])
    ray.get(others.ready())
    notes = []

    def note(text: str) -> None:
        notes.append(text)
        if text.startswith("waiting"):
            remove_placement_group(others)

    experiments = small("tag_quick")
    experiments["tag_quick"]["stop"] = {"training_iteration": 1}
    experiments["tag_quick"]["config"] |= {"num_env_runners": 1, "num_cpus_per_env_runner": 1}
    (end,) = train(experiments, TrainOptions(storage_path=str(tmp_path)), lambda *_: None, note)
    assert end.status == "TERMINATED"
    assert notes == [
        "tag_quick: uses the batched sampler",
        "waiting for 2 CPUs (1 free); the trial starts when they are free",
    ]
