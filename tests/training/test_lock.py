"""One run at a time in a folder: real processes, on a file system and on a store."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pyarrow.fs
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper

from rllib_tag.errors import ConfigError
from rllib_tag.places import Place
from rllib_tag.training import lock
from rllib_tag.training.lock import locked

HOLD = """
import sys
from rllib_tag.errors import ConfigError
from rllib_tag.training import lock
sys.path.insert(0, {here!r})
from test_lock import place_of
lock.BEAT_S, lock.SETTLE_S = 0.1, {settle}
try:
    with lock.locked(place_of({kind!r}, {folder!r})):
        print("held", flush=True)
        sys.stdin.readline()
except ConfigError as error:
    print(error, flush=True)
"""


def place_of(kind: str, folder: str) -> Place:
    """A local folder, or one that is reached as a store is."""
    if kind == "local":
        return Place.at(folder)
    store = pyarrow.fs.FSSpecHandler(ArrowFSWrapper(pyarrow.fs.LocalFileSystem()))
    return Place(folder, pyarrow.fs.PyFileSystem(store), folder)


class Holder:
    """Another process that holds a folder, or tries to."""

    def __init__(self, kind: str, folder: Path, settle: float = 0.5) -> None:
        code = HOLD.format(kind=kind, folder=str(folder), settle=settle, here=str(Path(__file__).parent))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("\n", timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "experiment"


@pytest.fixture(params=["local", "store"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "SETTLE_S", 0.5)
    monkeypatch.setattr(lock, "DEAD_S", 5.0)
    return request.param


def test_a_second_run_is_refused_until_the_first_has_ended(kind: str, folder: Path) -> None:
    holder = Holder(kind, folder)
    assert holder.says() == "held"
    message = rf"nothing is training, got .*, where process {holder.process.pid} on .* is"
    with pytest.raises(ConfigError, match=message), locked(place_of(kind, str(folder))):
        pass
    (folder / "run_1.json").write_text("")
    holder.end()
    with locked(place_of(kind, str(folder))):
        assert (folder / ".lock").exists()
    assert [path.name for path in folder.iterdir()] == ["run_1.json"]


def test_a_killed_runs_lock_is_not_in_the_way(kind: str, folder: Path) -> None:
    holder = Holder(kind, folder)
    assert holder.says() == "held"
    holder.process.kill()
    holder.process.communicate()
    assert (folder / ".lock").exists()
    with locked(place_of(kind, str(folder))):
        pass
    assert not (folder / ".lock").exists()


def test_of_two_that_start_at_once_one_holds(kind: str, folder: Path) -> None:
    holders = [Holder(kind, folder, settle=3.0) for _ in range(2)]
    said = [holder.says() for holder in holders]
    for holder in holders:
        holder.end()
    assert sum(line == "held" for line in said) == 1
    assert sum("expected a folder in which nothing is training" in line for line in said) == 1


def test_nothing_is_left_where_nothing_was(kind: str, folder: Path) -> None:
    with locked(place_of(kind, str(folder))):
        pass
    assert kind == "store" or not folder.parent.exists()
    assert not (folder / ".lock").exists()


def test_where_a_file_system_has_no_locks_a_file_says_who_holds_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    with locked(Place.at(folder)):
        assert '"token"' in (folder / ".lock").read_text()
    assert not folder.parent.exists()
