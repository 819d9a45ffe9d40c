"""Checkpoints are deleted when nothing needs them, and what could not be written is an error."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pyarrow.fs
import pytest
from conftest import EXPERIMENTS
from fsspec.implementations.arrow import ArrowFSWrapper
from small_runs import small

from rllib_tag import restore
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.checkpoints import find_checkpoint, is_complete
from rllib_tag.places import Place, WholeFileSystem
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPO
from rllib_tag.training import train as training
from rllib_tag.training.storage import LateDeletion
from rllib_tag.training.train import TrainOptions, train


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("native", [False, True])
def test_a_deleted_checkpoint_stays_while_the_newest_state_names_it(native: bool, tmp_path: Path) -> None:
    inner = ArrowFSWrapper(pyarrow.fs.LocalFileSystem()) if native else WholeFileSystem()
    filesystem = pyarrow.fs.PyFileSystem(LateDeletion(inner))
    trials = pickle.loads(pickle.dumps(filesystem))  # as a resumed trial gets it
    first, second, third = (str(tmp_path / "trial" / f"checkpoint_00000{number}") for number in (1, 2, 3))
    for path in (first, second, third, str(tmp_path / "other")):
        filesystem.create_dir(path)

    def begin_state(day: int, *named: str) -> None:
        with filesystem.open_output_stream(str(tmp_path / f"experiment_state-2026-11-{day}.json")) as file:
            file.write(json.dumps([pickle.dumps(path).hex() for path in named]).encode())

    def left() -> list[str]:
        return sorted(str(path) for path in (tmp_path / "trial").iterdir())

    filesystem.delete_dir(str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    begin_state(20, second)  # of a run before it was resumed
    begin_state(21, first, second)
    trials.delete_dir(first)
    begin_state(21, second, third)
    assert left() == [first, second, third]  # what lay there when it was begun named the first
    begin_state(21, second, third)
    assert left() == [second, third]
    trials.delete_dir(second)
    trials.delete_dir(third)
    shutil.rmtree(third)
    filesystem.handler.delete_due(str(tmp_path)[:-1])
    filesystem.handler.delete_due(str(tmp_path))
    assert left() == [second]
    begin_state(22)
    filesystem.handler.delete_due(str(tmp_path))
    assert left() == []


@pytest.mark.parametrize("native", [False, True])
def test_what_a_killed_run_had_deleted_goes(native: bool, tmp_path: Path) -> None:
    inner = ArrowFSWrapper(pyarrow.fs.LocalFileSystem()) if native else WholeFileSystem()
    filesystem = pyarrow.fs.PyFileSystem(LateDeletion(inner))
    paths = [tmp_path / trial / f"checkpoint_00000{number}" for trial in ("a", "b") for number in range(5)]
    for path in paths:
        path.mkdir(parents=True)
    (tmp_path / "run_1.json").write_text("")
    named = [paths[1], paths[3]]  # of trial a; the state was written before trial b's first checkpoint
    (tmp_path / "experiment_state-1.json").write_text(json.dumps([pickle.dumps(str(path)).hex() for path in paths]))
    (tmp_path / "experiment_state-2.json").write_text(json.dumps([pickle.dumps(str(path)).hex() for path in named]))
    filesystem.handler.delete_left_over(str(tmp_path))
    assert [path for path in paths if path.exists()] == [*named, paths[4], *paths[5:]]


@pytest.mark.nightly
def test_a_run_whose_checkpoint_could_not_be_written_goes_on_to_its_end(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_is_full = tmp_path / "full"

    class FullDiskPPO(TeamPPO):
        def save_checkpoint(self, checkpoint_dir: str) -> None:
            super().save_checkpoint(checkpoint_dir)
            if self.iteration == 2 and disk_is_full.exists():
                full(0)

    monkeypatch.setattr(training, "TeamPPO", FullDiskPPO)
    disk_is_full.touch()
    experiments = small("tag_quick")
    experiments["tag_quick"] |= {
        "stop": {"training_iteration": 4}, "checkpoint_config": {"checkpoint_frequency": 1, "num_to_keep": 2}
    }  # fmt: skip
    options = TrainOptions(storage_path=str(tmp_path / "results"))
    (end,) = train(experiments, options, lambda *_: None)
    assert (end.status, end.result["training_iteration"]) == ("ERROR", 2)
    assert "No space left on device" in end.error
    disk_is_full.unlink()
    (end,) = train(experiments, dataclasses.replace(options, resume=True), lambda *_: None)
    assert (end.status, end.result["training_iteration"]) == ("TERMINATED", 4)


@pytest.mark.nightly
def test_results_that_were_not_written_are_an_error(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def full_for_results(descriptor: int) -> None:
        if "result.json" in os.readlink(f"/proc/self/fd/{descriptor}"):
            full(descriptor)
        sync(descriptor)

    monkeypatch.setattr("rllib_tag.places.os.fsync", full_for_results)
    experiments = small("tag_quick")
    experiments["tag_quick"]["stop"] = {"training_iteration": 1}
    (end,) = train(experiments, TrainOptions(storage_path=str(tmp_path)), lambda *_: None)
    assert end.status == "ERROR"
    assert end.error.startswith("result.json: expected 1 iterations, found 0: the others could not be written.")
    assert Path(end.error.partition("and copy ")[2].removesuffix(" there.")).is_file()
    assert is_complete(find_checkpoint(end.folder))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nosuch://bucket/folder", "expected a path or a URI of a store that pyarrow or fsspec knows"),
        ("file:///no/such/folder", "expected files at file:///no/such/folder, found none"),
        (f"file://{EXPERIMENTS}/cluster", f"file://{EXPERIMENTS}/cluster"),
    ],
)
def test_a_uri_that_leads_nowhere(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        restore(uri)


def test_a_place_is_checked_and_left_as_it_was(tmp_path: Path) -> None:
    for location in (
        str(tmp_path / "a" / "b"),
        f"file://{tmp_path}",
        f"file://{tmp_path}/a%20b",
        f"file://{tmp_path}/a/b",
    ):
        Place.at(location).check_writable()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for location in (str(tmp_path / "file" / "b"), f"file://{tmp_path}/file/b"):
        with pytest.raises(ConfigError, match="output folder: expected a writable folder"):
            Place.at(location).check_writable()


def test_text_goes_there_and_back(tmp_path: Path) -> None:
    place = Place.at(f"file://{tmp_path}") / "folder" / "a.json"
    place.write_text(json.dumps([1, "ä"]))
    assert json.loads(place.read_text()) == [1, "ä"]
    assert (Place.at(tmp_path) / "folder").files() == ["a.json"]
    assert Place.at(tmp_path).files(recursive=True) == ["folder/a.json"]
    assert Place.at(tmp_path / "nowhere").files() == []
    assert Place.at(tmp_path).checkpoints() == []
    for number in (5, 3):
        (Place.at(tmp_path) / f"checkpoint_00000{number}" / "policies" / "a").write_text("")
    assert [Path(found).name for found in Place.at(tmp_path).checkpoints()] == [
        "checkpoint_000003",
        "checkpoint_000005",
    ]
