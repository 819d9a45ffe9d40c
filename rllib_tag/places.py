"""Folders on this machine or in a store, such that a file written there is whole or as it was before."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from rllib_tag.errors import ConfigError

CHECKPOINT = re.compile(r"(.*/)?(checkpoint_\d+)/")  # as Tune names the folders of checkpoints


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder on this machine or in a store that all machines reach.

    Args:
        location: A local path, or a URI such as `s3://bucket/results`.
        filesystem: What it lies on, as Tune takes it: a handler of an fsspec file system, on a local disk of a
            `WholeFileSystem`.
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
            return cls(location, _for_arrow(WholeFileSystem()), unquote(location.removeprefix("file://")))
        if not is_uri(location):
            path = os.path.abspath(os.path.expanduser(location))
            return cls(path, _for_arrow(WholeFileSystem()), path)
        try:
            try:
                native, path = pyarrow.fs.FileSystem.from_uri(location)
                return cls(location, _for_arrow(ArrowFSWrapper(native)), path)
            except pyarrow.ArrowInvalid:  # a kind that it leaves to others
                filesystem, path = fsspec.core.url_to_fs(location)
                return cls(location, _for_arrow(filesystem), path)
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


def _for_arrow(filesystem: fsspec.AbstractFileSystem) -> pyarrow.fs.PyFileSystem:
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


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
def local_copy(location: str | os.PathLike[str], is_whole: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A location's files on this machine: where they are, or copied from a store for the time being.

    Args:
        location: A local path or a URI.
        is_whole: Whether all of a checkpoint is in a folder. With it, checkpoints are copied, of each trial the newest
            whole one; without it, everything else. Default: none.

    Raises:
        ConfigError: If there is nothing at a URI, or a file is not what is expected there.
    """
    if not is_uri(os.fspath(location)):
        yield Path(location)
        return
    place = Place.at(location)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, posixpath.basename(place.path))
        _fetch(place, target, is_whole)
        try:
            yield target
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(target), place.location)) from error


def _fetch(place: Place, target: Path, is_whole: Callable[[Path], bool] | None) -> None:
    if place.filesystem.get_file_info(place.path).is_file:
        place.copy_to(target)
        return
    names: dict[str, list[str]] = {}
    for name in place.files(recursive=True):
        found = CHECKPOINT.match(name)
        names.setdefault(found[0] if found else "", []).append(name)
    if not names:
        raise ConfigError(f"storage: expected files at {place.location}, found none. Correct the URI.")
    wanted = [""] if is_whole is None or names.keys() == {""} else sorted(names.keys() - {""}, reverse=True)
    whole = set()  # trials of which one is here
    for folder in wanted:
        trial = posixpath.dirname(folder.rstrip("/"))
        if trial not in whole:
            for name in names.get(folder, []):
                (place / name).copy_to(target / name)
            if is_whole is not None and is_whole(target / folder):
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
