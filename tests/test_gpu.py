"""`make gpu`, as far as there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import EXPERIMENTS

FOLDER = EXPERIMENTS / "benchmarks"
pytestmark = pytest.mark.nightly
EQUAL = "import gpu; print(*(row['equal'] for row in gpu.equality({})))"
UNLIKE = """
import gpu
from rllib_tag.plugin.old_api_stack.team_policy import TeamPolicy
set_weights = TeamPolicy.set_weights
TeamPolicy.set_weights = lambda policy, weights: set_weights(policy, {key: 1.1 * w for key, w in weights.items()})
print(*(row['equal'] for row in gpu.equality({})))
"""


def output(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=FOLDER, check=False)
    return done.returncode, done.stdout.strip().splitlines()[-1]


def test_the_same_device_is_equal_to_itself() -> None:
    assert output("-c", EQUAL) == (0, "True True True")


def test_other_weights_are_found() -> None:
    assert output("-c", UNLIKE) == (0, "False False False")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    assert output("gpu.py", "--out", str(tmp_path)) == (
        1, "expected a GPU that torch can use, got none. Run this where there is one.",
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_equal_to_the_cpu(tmp_path: Path) -> None:
    code, _ = output("gpu.py", "--out", str(tmp_path), "--iterations", "1")
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"equality.csv", "speed.csv"}
