"""An evaluation's summary as a table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.table import Table

from rllib_tag.errors import ConfigError

COLUMNS = {
    "return_adversary": ("return per adversary", "{:.1f}"),
    "return_class_a": ("return per class A", "{:.1f}"),
    "return_class_b": ("return per class B", "{:.1f}"),
    "return_good": ("return per good agent", "{:.1f}"),
    "contacts": ("contacts", "{:.1f}"),
    "captured": ("captured", "{:.0%}"),
    "steps_to_first_contact": ("steps to first contact", "{:.1f}"),
    "mean_links": ("links per adversary", "{:.2f}"),
}


def read_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the `summary.json` of an evaluation.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        ConfigError: If it is missing or not one.
    """
    file = Path(path)
    file = file / "summary.json" if file.is_dir() else file
    try:
        content = json.loads(file.read_text())
        content["summary"], content["episodes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"evaluation: expected a summary.json of `rllib evaluate` in {file}, got {error!r}."
        ) from error
    return content


def summary_table(content: dict[str, Any]) -> Table:
    """One column a controller: mean and standard error of each figure over the episodes."""
    summary = content["summary"]
    table = Table(title=f"{content['episodes']} episodes from seed {content['first_seed']}: mean ± standard error")
    table.add_column("")
    for name in summary:
        table.add_column(name, justify="right", overflow="fold")
    for key, (label, form) in COLUMNS.items():
        cells = [
            f"{form.format(figures[key]['mean'])} ± {form.format(figures[key]['standard_error'])}"
            if key in figures
            else ""
            for figures in summary.values()
        ]
        if any(cells):
            table.add_row(label, *cells)
    return table
