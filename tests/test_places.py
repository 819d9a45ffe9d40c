"""Files that are whole or as they were, and places that are not this machine's disk."""

from __future__ import annotations

import contextlib
import errno
import pickle
from pathlib import Path

import pyarrow.fs
import pytest
from typer.testing import CliRunner

from rllib_tag.cli import app
from rllib_tag.errors import ConfigError
from rllib_tag.places import Place, WholeFileSystem


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("size", [20, 3_000_000])
def test_a_full_disk_leaves_the_old_file(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"x" * size)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")
    filesystem = pickle.loads(pickle.dumps(Place.at(folder).filesystem))  # as a trial's process gets it
    monkeypatch.setattr("rllib_tag.places.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pyarrow.fs.copy_files(str(tmp_path / "source"), str(folder / "file"), destination_filesystem=filesystem)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"file": "old"}
    monkeypatch.undo()
    pyarrow.fs.copy_files(str(tmp_path / "source"), str(folder / "file"), destination_filesystem=filesystem)
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == {"file": size}


def test_a_uri_keeps_its_query() -> None:
    place = Place("s3://bucket/results?region=x", pyarrow.fs.LocalFileSystem(), "bucket/results") / "trial"
    assert (place.location, place.path) == ("s3://bucket/results/trial?region=x", "bucket/results/trial")
    assert place.parent.location == "s3://bucket/results?region=x"


@pytest.mark.parametrize("command", [["evaluate"], ["transfer"], ["rollout"], ["export"], ["plot", "x"]])
def test_what_is_made_for_this_machine_does_not_go_to_a_store(command: list[str], tmp_path: Path) -> None:
    checkpoint = [] if command[0] == "plot" else [str(tmp_path)]
    result = CliRunner().invoke(app, [*command, *checkpoint, "--out", "s3://out.png"])
    assert isinstance(result.exception, ConfigError)
    assert "--out: expected a path on this machine, got s3://out.png" in str(result.exception)


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
