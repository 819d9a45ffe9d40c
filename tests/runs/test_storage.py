"""Files that are whole or as they were, and places that are not this machine's disk."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pyarrow.fs
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from typer.testing import CliRunner

from rllib_tag import restore
from rllib_tag.cli import app
from rllib_tag.errors import ConfigError
from rllib_tag.plugin.ray_internals import state_names
from rllib_tag.plugin.team_ppo import TeamPPO
from rllib_tag.runs import train as training
from rllib_tag.runs.restore import export, find_checkpoint
from rllib_tag.runs.storage import LateDeletion, Place, WholeFileSystem, is_whole, local_copy
from rllib_tag.runs.train import TrainOptions, TrialEnd, train

from .conftest import EXPERIMENTS, small


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("size", [20, 3_000_000])
def test_a_full_disk_leaves_the_old_file(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"x" * size)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")
    filesystem = pickle.loads(pickle.dumps(Place.at(folder).filesystem))  # as a trial's process gets it
    monkeypatch.setattr("rllib_tag.runs.storage.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pyarrow.fs.copy_files(str(tmp_path / "source"), str(folder / "file"), destination_filesystem=filesystem)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"file": "old"}
    monkeypatch.undo()
    pyarrow.fs.copy_files(str(tmp_path / "source"), str(folder / "file"), destination_filesystem=filesystem)
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == {"file": size}


def test_the_newest_whole_checkpoint_is_taken(trained: TrialEnd, tmp_path: Path) -> None:
    trial = tmp_path / "trial"
    source = find_checkpoint(trained.folder)
    for number in (3, 4):
        shutil.copytree(source, trial / f"checkpoint_00000{number}")
    assert find_checkpoint(trial).name == "checkpoint_000004"
    needed = [file for file in sorted(source.rglob("*")) if file.is_file() and file.name != "sampling_state.pkl"]
    assert len(needed) == 6
    for file in needed:
        broken = trial / "checkpoint_000004" / file.relative_to(source)
        broken.unlink()
        assert not is_whole(trial / "checkpoint_000004")
        assert find_checkpoint(trial).name == "checkpoint_000003"
        shutil.copy(file, broken)
    shutil.rmtree(trial / "checkpoint_000003")
    (trial / "checkpoint_000004" / "algorithm_state.pkl").unlink()
    with pytest.raises(ConfigError, match="expected a whole checkpoint below"):
        find_checkpoint(trial)


def test_teams_and_curves_are_read_from_a_uri(trained: TrialEnd, tmp_path: Path) -> None:
    uri = f"file://{trained.folder}"
    team = restore(uri)
    assert team.source == uri
    assert team.nets.keys() == {"class_a", "class_b"}
    export(uri, tmp_path / "exported")
    assert restore(f"file://{tmp_path}/exported/manifest.json").seed == team.seed
    result = CliRunner().invoke(app, ["plot", uri, "--out", str(tmp_path / "curve.png")])
    assert result.exit_code == 0, result.output
    with local_copy(uri, checkpoints=False) as folder:
        for name in ("result.json", "progress.csv"):
            assert (folder / name).read_text() == (trained.folder / name).read_text()
        assert not list(folder.glob("checkpoint_*"))
    assert not folder.exists()
    result = CliRunner().invoke(app, ["plot", f"{uri}/progress.csv", "--out", str(tmp_path / "file.png")])
    assert result.exit_code == 0, result.output


def test_a_linked_trial_is_found_once(trained: TrialEnd, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(trained.folder)
    (tmp_path / "again").symlink_to(trained.folder)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_checkpoint(tmp_path).resolve() == find_checkpoint(trained.folder).resolve()


def test_of_a_trial_in_a_store_the_newest_whole_checkpoint_is_fetched(trained: TrialEnd, tmp_path: Path) -> None:
    source = find_checkpoint(trained.folder)
    for number in (3, 4, 5):
        shutil.copytree(source, tmp_path / "a b" / "trial" / f"checkpoint_00000{number}")
    (tmp_path / "a b" / "trial" / "checkpoint_000005" / "algorithm_state.pkl").unlink()
    with local_copy(f"file://{tmp_path}/a%20b", checkpoints=True) as folder:
        assert sorted(found.name for found in folder.glob("trial/*")) == ["checkpoint_000004", "checkpoint_000005"]
        assert find_checkpoint(folder).name == "checkpoint_000004"


def test_a_uri_keeps_its_query() -> None:
    place = Place("s3://bucket/results?region=x", pyarrow.fs.LocalFileSystem(), "bucket/results") / "trial"
    assert (place.location, place.path) == ("s3://bucket/results/trial?region=x", "bucket/results/trial")
    assert place.parent.location == "s3://bucket/results?region=x"


@pytest.mark.parametrize("command", [["evaluate"], ["transfer"], ["rollout"], ["export"], ["plot", "x"]])
def test_what_is_made_for_this_machine_does_not_go_to_a_store(command: list[str], tmp_path: Path) -> None:
    checkpoint = [] if command[0] == "plot" else [str(tmp_path)]
    result = CliRunner().invoke(app, [*command, *checkpoint, "--out", "s3://out.png"])
    assert isinstance(result.exception, ConfigError)
    assert "--out: expected a place on this machine, got s3://out.png" in str(result.exception)


@pytest.mark.parametrize("how", ["left by an error", "never closed"])
def test_a_file_that_is_not_finished_leaves_the_old_one(how: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    file = WholeFileSystem().open(str(tmp_path / "file"), "wb")
    if how == "never closed":
        file.write(b"new")
        del file
    else:
        with contextlib.suppress(KeyError), file:
            file.write(b"new")
            raise KeyError
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "old"}


def test_tunes_own_state_names_checkpoints(trained: TrialEnd) -> None:
    (state,) = trained.folder.parent.glob("experiment_state-*.json")
    (checkpoint,) = trained.folder.glob("checkpoint_*")
    assert state_names(state.read_bytes(), str(checkpoint))
    assert not state_names(state.read_bytes(), f"{checkpoint}_no_such")


@pytest.mark.parametrize("native", [False, True])
def test_a_deleted_checkpoint_stays_while_the_newest_state_names_it(native: bool, tmp_path: Path) -> None:
    inner = ArrowFSWrapper(pyarrow.fs.LocalFileSystem()) if native else WholeFileSystem()
    filesystem = LateDeletion.of(inner)
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
    filesystem = LateDeletion.of(inner)
    paths = [tmp_path / trial / f"checkpoint_00000{number}" for trial in ("a", "b") for number in range(5)]
    for path in paths:
        path.mkdir(parents=True)
    (tmp_path / "run_1.json").write_text("")
    named = [paths[1], paths[3]]  # of trial a; the state was written before trial b's first checkpoint
    (tmp_path / "experiment_state-1.json").write_text(json.dumps([pickle.dumps(str(path)).hex() for path in paths]))
    (tmp_path / "experiment_state-2.json").write_text(json.dumps([pickle.dumps(str(path)).hex() for path in named]))
    filesystem.handler.delete_left_over(str(tmp_path))
    assert [path for path in paths if path.exists()] == [*named, paths[4], *paths[5:]]


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


def test_results_that_were_not_written_are_an_error(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def full_for_results(descriptor: int) -> None:
        if "result.json" in os.readlink(f"/proc/self/fd/{descriptor}"):
            full(descriptor)
        sync(descriptor)

    monkeypatch.setattr("rllib_tag.runs.storage.os.fsync", full_for_results)
    experiments = small("tag_quick")
    experiments["tag_quick"]["stop"] = {"training_iteration": 1}
    (end,) = train(experiments, TrainOptions(storage_path=str(tmp_path)), lambda *_: None)
    assert end.status == "ERROR"
    assert end.error.startswith("result.json: expected 1 iterations, found 0: the others could not be written.")
    assert Path(end.error.partition("and copy ")[2].removesuffix(" there.")).is_file()
    assert is_whole(find_checkpoint(end.folder))


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
