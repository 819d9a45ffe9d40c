"""Files that are whole or as they were, and places that are not this machine's disk."""

from __future__ import annotations

import errno
import json
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
from rllib_tag.runs.restore import find_checkpoint
from rllib_tag.runs.storage import LateDeletion, Place, WholeFileSystem, is_whole, local_copy
from rllib_tag.runs.train import TrialEnd


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
    result = CliRunner().invoke(app, ["plot", uri, "--out", str(tmp_path / "curve.png")])
    assert result.exit_code == 0, result.output
    with local_copy(uri, checkpoints=False) as folder:
        assert (folder / "progress.csv").read_text() == (trained.folder / "progress.csv").read_text()
        assert not list(folder.glob("checkpoint_*"))
    assert not folder.exists()


@pytest.mark.parametrize("native", [False, True])
def test_a_deleted_checkpoint_stays_until_two_states_have_been_written_since(native: bool, tmp_path: Path) -> None:
    inner = ArrowFSWrapper(pyarrow.fs.LocalFileSystem()) if native else WholeFileSystem()
    filesystem = LateDeletion.of(inner)
    trials = pickle.loads(pickle.dumps(filesystem))  # as a resumed trial gets it
    for name in ("trial/checkpoint_000001", "trial/checkpoint_000002", "other"):
        filesystem.create_dir(str(tmp_path / name))

    def write_state() -> None:
        with filesystem.open_output_stream(str(tmp_path / "experiment_state-2026.json")) as file:
            file.write(b"{}")

    filesystem.delete_dir(str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    trials.delete_dir(str(tmp_path / "trial" / "checkpoint_000001"))
    for left in (2, 2, 1):
        write_state()
        assert len(list((tmp_path / "trial").iterdir())) == left
    trials.delete_dir(str(tmp_path / "trial" / "checkpoint_000002"))
    filesystem.handler.delete_due(f"{tmp_path}/tri")
    assert list((tmp_path / "trial").iterdir())
    filesystem.handler.delete_due(str(tmp_path))
    assert not list((tmp_path / "trial").iterdir())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nosuch://bucket/folder", "expected a path or a URI of a store that pyarrow or fsspec knows"),
        ("file:///no/such/folder", "expected files at file:///no/such/folder, found none"),
    ],
)
def test_a_uri_that_leads_nowhere(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        restore(uri)


def test_a_place_is_checked_and_left_as_it_was(tmp_path: Path) -> None:
    for location in (str(tmp_path / "a" / "b"), f"file://{tmp_path}"):
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
