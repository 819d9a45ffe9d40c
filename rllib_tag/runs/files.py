"""Results as JSON and CSV, and what they came from."""

from __future__ import annotations

import csv
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from rllib_tag.files import write_files

PACKAGES = ("rllib_tag", "ray", "torch", "torch-geometric", "pettingzoo", "mpe2", "SuperSuit", "gymnasium", "numpy")


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
