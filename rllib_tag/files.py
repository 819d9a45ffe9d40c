"""Writing files such that each is whole or absent, and what belongs together changes together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
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
    """Checks that no folder stands where `write_files` is to write a file.

    Raises:
        ConfigError: If one does.
    """
    for name in names:
        if Path(folder, name).is_dir():
            raise ConfigError(f"output: expected a place for a file, got the folder {Path(folder, name)}. Move it.")
