"""Where a run's results and checkpoints go, such that a file there is whole or as it was before."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import posixpath
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import fsspec
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.ray_internals import state_names

logger = logging.getLogger(__name__)
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
        if location.startswith("file://"):
            return cls(location, LateDeletion.of(WholeFileSystem()), unquote(location.removeprefix("file://")))
        if not is_uri(location):
            path = os.path.abspath(os.path.expanduser(location))
            return cls(path, LateDeletion.of(WholeFileSystem()), path)
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
        return self._moved(lambda path: posixpath.join(path, name))

    @property
    def parent(self) -> Place:
        """The folder that it is in."""
        return self._moved(posixpath.dirname)

    def _moved(self, move: Callable[[str], str]) -> Place:
        folder, mark, query = self.location.partition("?") if is_uri(self.location) else (self.location, "", "")
        return Place(move(folder) + mark + query, self.filesystem, move(self.path))

    @property
    def is_local(self) -> bool:
        """Whether it is in this machine's file system, in which other machines' may be mounted."""
        return isinstance(self.filesystem.handler.fs, WholeFileSystem)

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

    def copy_to(self, target: Path) -> None:
        """Copies the file that it is to this machine's disk, and makes the folders above it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.fs.copy_files(self.path, str(target), source_filesystem=self.filesystem)

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
            if not self.is_local:
                new = self.filesystem.get_file_info(self.path).type == pyarrow.fs.FileType.NotFound
                probe = self / ".rllib_tag_probe"
                probe.write_text("")
                self.filesystem.delete_file(probe.path)
                if new:
                    self.filesystem.delete_dir(self.path)
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
    """A file system for Tune on which a checkpoint outlives its deletion while Tune's state on it still names it.

    Tune deletes a checkpoint at once, and writes down later which ones it has: a run that is killed in between would
    look for one that is gone. What is deleted here goes when the newest state that lies there no longer names it.

    Args:
        fs: The file system, of fsspec's kind.
    """

    # Of all instances, since each trial of a resumed run has its own.
    _due: ClassVar[set[str]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, fs: fsspec.AbstractFileSystem) -> pyarrow.fs.PyFileSystem:
        """As pyarrow, and so Tune, takes it."""
        return pyarrow.fs.PyFileSystem(cls(fs))

    def delete_dir(self, path: str) -> None:
        """Deletes a folder; a checkpoint's later."""
        if CHECKPOINT.fullmatch(f"{path}/"):
            with self._lock:
                self._due.add(path)
        else:
            super().delete_dir(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Opens a file to write; where it is Tune's state, what the last one no longer names goes first."""
        experiment, name = posixpath.split(path)
        if name.startswith(TUNE_STATE):
            self.delete_due(experiment)
        return super().open_output_stream(path, metadata)

    def delete_left_over(self, experiment: str) -> None:
        """Deletes also what a killed run left in an experiment's folder, where nothing is training.

        In a trial's folder, checkpoints older than the newest that the newest state names had been deleted for Tune
        unless it names them, too; newer ones were made after it.
        """
        try:
            state = self._newest_state(experiment)
            trials = [entry["name"] for entry in self.fs.ls(experiment, detail=True) if entry["type"] != "file"]
            for trial in trials:
                found = [path for path in self.fs.ls(trial, detail=False) if CHECKPOINT.fullmatch(f"{path}/")]
                newest = max((path for path in found if state_names(state, path)), default="")
                with self._lock:
                    self._due.update(path for path in found if path < newest)
        except OSError:
            logger.exception("what a killed run left in %s could not be looked for", experiment)
        self.delete_due(experiment)

    def delete_due(self, experiment: str) -> None:
        """Deletes what waits for it in an experiment's folder and is not named by the newest state there.

        What cannot be deleted is logged and tried again: Tune must be able to write its state, and has no use for it.
        """
        with self._lock:
            due = [path for path in self._due if path.startswith(f"{experiment}/")]
            try:
                state = self._newest_state(experiment) if due else b""
                if not state:
                    return
                for path in due:
                    if not state_names(state, path):
                        with contextlib.suppress(FileNotFoundError):
                            super().delete_dir(path)
                        self._due.remove(path)
            except OSError:
                logger.exception("checkpoints in %s that are no longer needed could not be deleted", experiment)

    def _newest_state(self, experiment: str) -> bytes:
        """Tune's newest state of an experiment; nothing if there is none."""
        found = self.fs.ls(experiment, detail=False)
        states = [path for path in found if TUNE_STATE in posixpath.basename(path)]
        return self.fs.cat_file(max(states, key=posixpath.basename)) if states else b""


def is_uri(location: str) -> bool:
    """Whether a location is a URI; `file://` is one too."""
    return "://" in location


def check_output(out: str, is_file: bool = False) -> None:
    """Checks a folder, or a file or new folder and the folder that it goes into, that is to be written here.

    Raises:
        ConfigError: If it is a URI or cannot be written.
    """
    if is_uri(out):
        raise ConfigError(f"--out: expected a place on this machine, got {out}. Write there, and copy it.")
    Place.at(os.path.dirname(out) if is_file else out).check_writable()


@contextlib.contextmanager
def local_copy(location: str | os.PathLike[str], checkpoints: bool) -> Iterator[Path]:
    """A location's files on this machine: where they are, or copied from a store for the time being.

    Args:
        location: A local path or a URI.
        checkpoints: Whether to copy checkpoints, of each trial the newest whole one, or everything else.

    Raises:
        ConfigError: If there is nothing at a URI, or a file is not what is expected there.
    """
    if not is_uri(os.fspath(location)):
        yield Path(location)
        return
    place = Place.at(location)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, posixpath.basename(place.path))
        _fetch(place, target, checkpoints)
        try:
            yield target
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(target), place.location)) from error


def _fetch(place: Place, target: Path, checkpoints: bool) -> None:
    if place.filesystem.get_file_info(place.path).is_file:
        place.copy_to(target)
        return
    names: dict[str, list[str]] = {}
    for name in place.files(recursive=True):
        found = CHECKPOINT.match(name)
        names.setdefault(found[0] if found else "", []).append(name)
    if not names:
        raise ConfigError(f"storage: expected files at {place.location}, found none. Correct the URI.")
    wanted = [""] if not checkpoints or names.keys() == {""} else sorted(names.keys() - {""}, reverse=True)
    whole = set()  # trials of which one is here
    for folder in wanted:
        trial = posixpath.dirname(folder.rstrip("/"))
        if trial not in whole:
            for name in names.get(folder, []):
                (place / name).copy_to(target / name)
            if is_whole(target / folder):
                whole.add(trial)


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

    def __exit__(self, kind: Any, *exc: Any) -> None:
        self._failed = self._failed or kind is not None
        super().__exit__(kind, *exc)

    def __del__(self) -> None:
        self._failed = True  # nobody has closed it
        self.close()

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
    try:
        policies = list(json.loads((checkpoint / RLLIB_MARK).read_text())["policy_ids"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    needed = [checkpoint / "algorithm_state.pkl"]
    for policy in policies:
        needed += [checkpoint / "policies" / policy / name for name in (RLLIB_MARK, "policy_state.pkl")]
    return all(file.exists() for file in needed)
