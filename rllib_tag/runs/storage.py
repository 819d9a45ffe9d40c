"""Where a run's results and checkpoints go, such that a file there is whole or as it was before."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import posixpath
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from rllib_tag.errors import ConfigError

RLLIB_MARK = "rllib_checkpoint.json"
TUNE_STATE = "experiment_state-"
CHECKPOINT = re.compile(r"(.*/)?(checkpoint_\d+)/")


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder on this machine or in a store that all machines reach.

    Args:
        location: A local path, or a URI such as `s3://bucket/results`.
        filesystem: What it lies on, for Tune: `LateDeletion`, on a local disk of a `WholeFileSystem`.
        path: Where it is there.
    """

    location: str
    filesystem: pyarrow.fs.FileSystem
    path: str

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> Place:
        """The place that a path or URI names; nothing is made there.

        Raises:
            ConfigError: If the URI's kind of store is not known or its package not installed.
        """
        location = os.fspath(location)
        local = location.removeprefix("file://")
        if not is_uri(local):
            path = os.path.abspath(os.path.expanduser(local))
            return cls(location if local != location else path, LateDeletion.of(WholeFileSystem()), path)
        try:
            try:
                native, path = pyarrow.fs.FileSystem.from_uri(location)
                return cls(location, LateDeletion.of(ArrowFSWrapper(native)), path)
            except pyarrow.ArrowInvalid:  # a kind that it leaves to others
                filesystem, path = fsspec.core.url_to_fs(location)
                return cls(location, LateDeletion.of(filesystem), path)
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(
                f"storage: expected a path or a URI of a store that pyarrow or fsspec knows, got {location} ({error})."
            ) from error

    def __truediv__(self, name: str) -> Place:
        return Place(posixpath.join(self.location, name), self.filesystem, posixpath.join(self.path, name))

    def files(self, recursive: bool = False) -> list[str]:
        """The names of the files in it, or of all below it, in order; none if it is not there."""
        selector = pyarrow.fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = self.filesystem.get_file_info(selector)
        return sorted(posixpath.relpath(info.path, self.path) for info in found if info.is_file)

    def checkpoints(self) -> list[str]:
        """The locations of the checkpoints in it, in order."""
        found = {match[0] for match in map(CHECKPOINT.match, self.files(recursive=True)) if match}
        return [(self / name.rstrip("/")).location for name in sorted(found)]

    def read_text(self) -> str:
        """The text of the file that it is."""
        with self.filesystem.open_input_stream(self.path) as file:
            return file.read().decode()

    def write_text(self, text: str) -> None:
        """Writes a file, and the folders above it."""
        self.filesystem.create_dir(posixpath.dirname(self.path))
        with self.filesystem.open_output_stream(self.path) as file:
            file.write(text.encode())

    def check_writable(self) -> None:
        """Writes a file there and removes it; on a local disk in the folder in which it would be made.

        Raises:
            ConfigError: If that fails.
        """
        try:
            if is_uri(self.location):
                probe = self / ".rllib_tag_probe"
                probe.write_text("")
                self.filesystem.delete_file(probe.path)
                return
            existing = Path(self.path)
            while not existing.exists():
                existing = existing.parent
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise ConfigError(
                f"output folder: expected a writable folder, got {self.location} ({error.strerror or error}). "
                "Choose another one."
            ) from error


class LateDeletion(pyarrow.fs.FSSpecHandler):
    """A file system for Tune on which a checkpoint outlives its deletion until nothing on it names it any more.

    Tune deletes a checkpoint at once, and writes down later which ones it has: a run that is killed in between would
    look for one that is gone. What is deleted here goes when Tune has written its state twice since; the first of
    these may have been drawn up before.

    Args:
        fs: The file system, of fsspec's kind.
    """

    # States still to be begun before a folder goes; of all instances, since each trial of a resumed run has its own.
    _due: ClassVar[dict[str, int]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, fs: fsspec.AbstractFileSystem) -> pyarrow.fs.PyFileSystem:
        """As pyarrow, and so Tune, takes it."""
        return pyarrow.fs.PyFileSystem(cls(fs))

    def delete_dir(self, path: str) -> None:
        """Deletes a folder; a checkpoint's later."""
        if CHECKPOINT.fullmatch(f"{path}/"):
            with self._lock:
                self._due[path] = 3
        else:
            super().delete_dir(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Opens a file to write; where it is Tune's state, what the last ones no longer name goes first."""
        experiment, name = posixpath.split(path)
        if name.startswith(TUNE_STATE):
            self.delete_due(experiment, states=1)
        return super().open_output_stream(path, metadata)

    def delete_due(self, experiment: str, states: int = 3) -> None:
        """Deletes the checkpoints of an experiment that waited for no more than some states. Default: all."""
        with self._lock:
            waiting = {path: left - states for path, left in self._due.items() if path.startswith(f"{experiment}/")}
            self._due.update(waiting)
            done = [path for path, left in waiting.items() if left <= 0]
            for path in done:
                del self._due[path]
        for path in done:
            super().delete_dir(path)


def is_uri(location: str) -> bool:
    """Whether a location is a URI; `file://` is one too."""
    return "://" in location


@contextlib.contextmanager
def local_copy(location: str | os.PathLike[str], checkpoints: bool) -> Iterator[Path]:
    """A location's files on this machine: where they are, or copied from a store for the time being.

    Args:
        location: A local path or a URI.
        checkpoints: Whether to copy checkpoints, of each trial the newest two, or everything else.

    Raises:
        ConfigError: If there is nothing at a URI.
    """
    if not is_uri(os.fspath(location)):
        yield Path(location)
        return
    place = Place.at(location)
    names = place.files(recursive=True)
    if not names:
        raise ConfigError(f"storage: expected files at {place.location}, found none. Correct the URI.")
    folders: dict[str, set[str]] = {}
    for name in names:
        found = CHECKPOINT.match(name)
        if found:
            folders.setdefault(found[1] or "", set()).add(found[0])
    newest = {folder for found in folders.values() for folder in sorted(found)[-2:]}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            found = CHECKPOINT.match(name)
            if (found[0] in newest if checkpoints else False) if found else True:
                target = Path(temporary, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                pyarrow.fs.copy_files((place / name).path, str(target), source_filesystem=place.filesystem)
        yield Path(temporary)


class WholeFileSystem(LocalFileSystem):
    """The local disk; what a killed process or a full disk interrupts leaves the old file, or none."""

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode == "wb":
            return _AsideFile(Path(path))
        return super()._open(path, mode, block_size, **options)


class _AsideFile(io.FileIO):
    """A file under another name until it is closed after whole writes.

    Each write goes to the disk at once: what goes wrong when a file is closed, pyarrow does not tell.
    """

    def __init__(self, target: Path) -> None:
        self._target, self._failed = target, False
        self._aside = target.with_name(f".{target.name}.{os.getpid()}")
        super().__init__(self._aside, "w")

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) :]
            os.fsync(self.fileno())
        except OSError:
            self._failed = True
            self.close()
            raise
        return size

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._failed:
            self._aside.unlink()
        else:
            self._aside.replace(self._target)


def is_whole(checkpoint: Path) -> bool:
    """Whether all files of an RLlib checkpoint are there; each of them is whole or absent."""
    mark = checkpoint / RLLIB_MARK
    if not mark.exists():
        return False
    needed = [checkpoint / "algorithm_state.pkl"]
    for policy in json.loads(mark.read_text())["policy_ids"]:
        needed += [checkpoint / "policies" / policy / name for name in (RLLIB_MARK, "policy_state.pkl")]
    return all(file.exists() for file in needed)
