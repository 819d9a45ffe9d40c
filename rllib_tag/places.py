"""Folders on this machine or in a remote store, in which a file is always either whole or unchanged."""

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

CHECKPOINT = re.compile(r"(.*/)?(checkpoint_\d+)/")  # the names that Tune gives to checkpoint folders


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder on this machine, or in a store that all machines can access.

    Args:
        location: A local path, or a URI such as `s3://bucket/results`.
        filesystem: Its file system in the form that Tune takes: the handler of an fsspec file system, which is a
            `WholeFileSystem` on a local disk.
        path: Its path in the file system.
    """

    location: str
    filesystem: pyarrow.fs.FileSystem
    path: str

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> Place:
        """Returns the place that a path or URI names, without creating anything.

        Raises:
            ConfigError: If the kind of store is unknown, or if its package is not installed.
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
            except pyarrow.ArrowInvalid:  # pyarrow does not support this kind of store
                filesystem, path = fsspec.core.url_to_fs(location)
                return cls(location, _for_arrow(filesystem), path)
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(
                f"storage: expected a path or a URI of a store that pyarrow or fsspec knows, got {location} ({error}). "
                "Correct it, or install the package of the store."
            ) from error

    def __truediv__(self, name: str) -> Place:
        return self._moved(lambda path: posixpath.join(path, name))

    @property
    def parent(self) -> Place:
        """The folder that contains it."""
        return self._moved(posixpath.dirname)

    def _moved(self, move: Callable[[str], str]) -> Place:
        folder, mark, query = self.location.partition("?") if is_uri(self.location) else (self.location, "", "")
        return Place(move(folder) + mark + query, self.filesystem, move(self.path))

    @property
    def is_local(self) -> bool:
        """Whether it is in this machine's file system, which may include mounts from other machines."""
        return isinstance(self.filesystem.handler.fs, WholeFileSystem)

    def files(self, recursive: bool = False) -> list[str]:
        """Returns the sorted names of the files in it, or of all files below it; none if it does not exist."""
        selector = pyarrow.fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = self.filesystem.get_file_info(selector)
        return sorted(posixpath.relpath(info.path, self.path) for info in found if info.is_file)

    def checkpoints(self) -> list[str]:
        """Returns the sorted locations of the checkpoints in it."""
        found = {match[0] for match in map(CHECKPOINT.match, self.files(recursive=True)) if match}
        return [(self / name.rstrip("/")).location for name in sorted(found)]

    def read_text(self) -> str:
        """Returns the text of a file; the place is that of the file."""
        with self.filesystem.open_input_stream(self.path) as file:
            return file.read().decode()

    def copy_to(self, target: Path) -> None:
        """Copies a file to this machine's disk, and creates the folders above it there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.fs.copy_files(self.path, str(target), source_filesystem=self.filesystem)

    def write_text(self, text: str) -> None:
        """Writes a file, and creates the folders above it."""
        self.filesystem.create_dir(posixpath.dirname(self.path))
        with self.filesystem.open_output_stream(self.path) as file:
            file.write(text.encode())

    def check_writable(self) -> None:
        """Writes a file there and removes it; if a local folder does not exist, in the nearest one above it.

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
                "Choose another folder."
            ) from error


def _for_arrow(filesystem: fsspec.AbstractFileSystem) -> pyarrow.fs.PyFileSystem:
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


def is_uri(location: str) -> bool:
    """Whether a location is a URI, including `file://` URIs."""
    return "://" in location


def check_output(out: str, is_file: bool = False) -> None:
    """Checks that an output folder, or the parent of an output file or new folder, can be written on this machine.

    Args:
        out: The path of the output.
        is_file: Whether the parent is checked. Default: False.

    Raises:
        ConfigError: If it is a URI or cannot be written.
    """
    if is_uri(out):
        raise ConfigError(f"--out: expected a path on this machine, got {out}. Write to one, and copy the output.")
    Place.at(os.path.dirname(out) if is_file else out).check_writable()


@contextlib.contextmanager
def local_copy(location: str | os.PathLike[str], is_complete: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yields the path of a location's files on this machine: local files as they are, others as a temporary copy.

    Args:
        location: A local path or a URI.
        is_complete: Whether a folder contains a complete checkpoint. If given, and if there are checkpoints, only the
            newest complete one of each trial is copied; otherwise, everything except checkpoints is. Default: None.

    Raises:
        ConfigError: If there is nothing at a URI, or if reading the copy raises one, which then names the URI.
    """
    if not is_uri(os.fspath(location)):
        yield Path(location)
        return
    place = Place.at(location)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, posixpath.basename(place.path))
        _fetch(place, target, is_complete)
        try:
            yield target
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(target), place.location)) from error


def _fetch(place: Place, target: Path, is_complete: Callable[[Path], bool] | None) -> None:
    if place.filesystem.get_file_info(place.path).is_file:
        place.copy_to(target)
        return
    names: dict[str, list[str]] = {}
    for name in place.files(recursive=True):
        found = CHECKPOINT.match(name)
        names.setdefault(found[0] if found else "", []).append(name)
    if not names:
        raise ConfigError(f"storage: expected files at {place.location}, found none. Correct the URI.")
    wanted = [""] if is_complete is None or names.keys() == {""} else sorted(names.keys() - {""}, reverse=True)
    whole = set()  # trials whose newest whole checkpoint has been copied
    for folder in wanted:
        trial = posixpath.dirname(folder.rstrip("/"))
        if trial not in whole:
            for name in names.get(folder, []):
                (place / name).copy_to(target / name)
            if is_complete is not None and is_complete(target / folder):
                whole.add(trial)


class WholeFileSystem(LocalFileSystem):
    """The local disk, on which an interrupted write leaves the old file, or none."""

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode == "wb":
            return _AsideFile(Path(path))
        return super()._open(path, mode, block_size, **options)


class _AsideFile(io.FileIO):
    """A file that has a temporary name until it is closed and all writes have succeeded.

    Each write is flushed to the disk at once, because pyarrow does not report errors from closing a file.
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
        self._failed = True  # it has not been closed properly
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._failed:
            self._aside.unlink()
        else:
            self._aside.replace(self._target)
