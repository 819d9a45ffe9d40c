"""Files that are whole or absent, folders that are found, and results as JSON and CSV with what they came from."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import platform
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from rllib_tag.errors import ConfigError

PACKAGES = ("rllib_tag", "ray", "torch", "torch-geometric", "pettingzoo", "mpe2", "SuperSuit", "gymnasium", "numpy")


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


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all, as `as_json` has it."""
    write_files(path.parent, {path.name: as_json(value)})


def as_json(value: Any) -> str:
    """A value as JSON text that ends with a line break; infinity, which JSON lacks, becomes "inf"."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes CSV, whole or not at all, as `as_csv` has it."""
    write_files(path.parent, {path.name: as_csv(rows)})


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text, a column for each key that any row has; cells of rows without it are empty."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def provenance() -> dict[str, Any]:
    """The command line and the versions that a result came from."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
