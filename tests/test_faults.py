"""The commands that inject faults, a few times each; `make faults` injects many and counts."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from types import ModuleType

import pytest
import typer
from conftest import script


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    """The script as a module."""
    return script("faults", "faults")


@pytest.mark.nightly  # five minutes of runs that are killed and resumed
def test_a_killed_driver_goes_on_as_if_nothing_had_been(faults: ModuleType, tmp_path: Path) -> None:
    row = faults.killed_drivers(2, tmp_path, random.Random(0))
    assert (row["injected"], row["as_expected"], row["lost"]) == (2, 2, 0)


@pytest.mark.nightly
def test_a_killed_runner_comes_back(faults: ModuleType, ray_session: None, tmp_path: Path) -> None:
    row = faults.killed_runners(1, tmp_path, random.Random(0))
    assert (row["injected"], row["as_expected"], row["lost"]) == (1, 1, 0)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # mpe2 goes on with the NaN
def test_a_nan_ends_a_run_before_its_weights_change(faults: ModuleType, ray_session: None, tmp_path: Path) -> None:
    row = faults.not_finite(2, tmp_path, random.Random(0))  # once on arrays, once by RLlib's default sampler
    assert (row["injected"], row["as_expected"], row["lost"]) == (2, 2, 0)


def test_the_table_keeps_what_was_measured_before(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in faults.FAULTS:
        row = {"fault": kind, "injected": 3, "as_expected": 3, "lost": 0, "of": "runs"}
        monkeypatch.setitem(faults.FAULTS, kind, lambda *_, row=row: row)
    out, log = tmp_path / "faults.csv", tmp_path / "new" / "faults.log"
    faults.main(["nan"], out, log)
    faults.main(["driver"], out, log)
    with out.open(newline="") as opened:
        assert [row["kind"] for row in csv.DictReader(opened)] == ["driver", "nan"]
    lossy = {"fault": "disk", "injected": 3, "as_expected": 3, "lost": 1, "of": "runs"}
    monkeypatch.setitem(faults.FAULTS, "disk", lambda *_: lossy)
    monkeypatch.setattr(faults.os, "geteuid", lambda: 0)
    with pytest.raises(typer.Exit):
        faults.main(["disk"], out, log)
    monkeypatch.setattr(faults.os, "geteuid", lambda: 1000)
    monkeypatch.setitem(faults.FAULTS, "disk", None)
    with pytest.raises(typer.Exit):  # what was measured before stays
        faults.main(["disk"], out, log)
