"""Counts, in one place, what Ray says of its old API stack while a file is trained from: in a log line or a warning."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import EXPERIMENTS

from rllib_tag.experiment.spec import load_experiments

COUNTED = {
    # Plain PPO's own, on the way from padded sequences to minibatches.
    "DeprecationWarning: `_get_slice_indices` has been deprecated. This will raise an error in the future!": 1,
}
SAID = re.compile(r"/ray/.*DeprecationWarning: .*|DeprecationWarning: `.*` has been deprecated.*")


@pytest.mark.nightly
def test_what_ray_deprecates_of_what_is_used(tmp_path: Path) -> None:
    (spec,) = load_experiments(EXPERIMENTS / "faults" / "small.yaml").values()
    spec["stop"] = {"training_iteration": 1}
    plain = copy.deepcopy(spec)
    plain["config"]["env_config"]["backend"] = "mpe2"
    file = tmp_path / "both.yaml"
    file.write_text(yaml.safe_dump({"batched": spec, "plain": plain}))
    command = [sys.executable, "-m", "rllib_tag", "train", "file", str(file), "-v"]
    said = subprocess.run(
        [*command, "--storage-path", str(tmp_path), "--ray-num-cpus", "1"],
        env={**os.environ, "PYTHONWARNINGS": "always"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = said.stdout + said.stderr
    assert "Warning: " in lines  # warnings are shown at all
    assert Counter(SAID.findall(lines)) == COUNTED
