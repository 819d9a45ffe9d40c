"""Writing results: a file is whole or absent."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from rllib_tag.errors import ConfigError

PACKAGES = ("rllib_tag", "ray", "torch", "torch-geometric", "pettingzoo", "mpe2", "SuperSuit", "gymnasium", "numpy")


def write_text(path: Path, text: str) -> None:
    """Writes a file aside and renames it into place.

    Raises:
        ConfigError: If the place cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ConfigError(f"output: expected a writable place, got {path} ({error.strerror}).") from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all, as `as_json` has it."""
    write_text(path, as_json(value) + "\n")


def as_json(value: Any) -> str:
    """JSON of a value; infinity, which JSON lacks, becomes "inf"."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows with the same keys as CSV, whole or not at all."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def provenance() -> dict[str, Any]:
    """The command line and the versions that a result came from."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
