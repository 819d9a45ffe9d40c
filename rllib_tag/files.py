"""Atomic writes of files, search in folders, and results as JSON and CSV with their provenance."""

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

    If the folder already exists, files of the same names are replaced, files whose content is None are removed, and all
    other files stay. Everything is first written to a temporary folder and then renamed, so nothing changes unless
    everything could be written.

    Args:
        folder: The folder; it is created if it does not exist.
        contents: Text or bytes by file name; None for a file that an earlier call may have left and that must go.

    Returns:
        The paths of the files written.

    Raises:
        ConfigError: If the folder cannot be written, or if a name is that of a folder.
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
    """Checks that files of these names can be written to a folder: no name is too long or that of a folder.

    Raises:
        ConfigError: If a file cannot be written.
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
    """Yields a folder and all readable folders below it, in breadth-first order.

    Links to folders are followed; a folder that several paths lead to is yielded once.
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
    """Writes a value as JSON, as `as_json` formats it; the file is whole or unchanged."""
    write_files(path.parent, {path.name: as_json(value)})


def as_json(value: Any) -> str:
    """Returns a value as JSON text that ends with a newline; infinity, which JSON lacks, becomes "inf"."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, as `as_csv` formats them; the file is whole or unchanged."""
    write_files(path.parent, {path.name: as_csv(rows)})


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV text, with a column for each key of any row; rows without a key have an empty cell."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def provenance() -> dict[str, Any]:
    """Returns the command line and the package versions that produced a result."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
