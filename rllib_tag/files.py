"""Writing files such that each is whole or absent, and what belongs together changes together; finding folders."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rllib_tag.errors import ConfigError


def write_files(folder: str | os.PathLike[str], contents: Mapping[str, str | bytes | None]) -> list[Path]:
    """Writes files that belong together into a folder, all or none of them.

    What every command does in a folder that has been used before: files of the same names are replaced, those of
    them that this time have no content are removed, and all other files stay. Everything is written aside first and
    renamed at the end, so nothing changes unless all of it could be written.

    Args:
        folder: Where; it is made if it does not exist.
        contents: Text or bytes by file name; None for a file that must not be left from an earlier time.

    Returns:
        The paths of the files written.

    Raises:
        ConfigError: If the folder cannot be written, or a name is a folder's.
    """
    folder = Path(folder)
    check_files(folder, contents)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".rllib_tag.") as aside:
            written = {name: content for name, content in contents.items() if content is not None}
            for name, content in written.items():
                Path(aside, name).write_bytes(
                    content.encode(errors="surrogateescape") if isinstance(content, str) else content
                )
            paths = [Path(aside, name).replace(folder / name) for name in written]
            for name in contents.keys() - written.keys():
                (folder / name).unlink(missing_ok=True)
            return paths
    except OSError as error:
        raise ConfigError(f"output: expected a writable place, got {folder} ({error.strerror}).") from error


def check_files(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Checks that files of these names can stand in a folder: that none is too long, or a folder's own.

    Raises:
        ConfigError: If one cannot.
    """
    for path in (Path(folder, name) for name in names):
        try:
            if stat.S_ISDIR(path.stat().st_mode):
                raise ConfigError(f"output: expected a place for a file, got the folder {path}. Move it.")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ConfigError(f"output: expected a writable place, got {path} ({error.strerror}).") from error


def folders(top: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder and all below it that can be read, the nearest first.

    Links to folders are followed; what several paths lead to comes once.
    """
    seen, waiting = set(), deque([Path(top)])
    while waiting:
        folder = waiting.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        with contextlib.suppress(OSError):
            waiting.extend(sorted(below for below in folder.iterdir() if below.is_dir()))
