"""Tables of an evaluation's summary."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from rllib_tag.errors import ConfigError, reason_of
from rllib_tag.names import GOOD_POLICY, INFLUENCE, METRICS, RETURN_ADVERSARY, team_return

RETURN_MINUS_TEAM = "return_minus_team"


def read_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the `summary.json` of an evaluation.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        ConfigError: If it is missing or something else.
    """
    file = Path(path)
    file = file / "summary.json" if file.is_dir() else file
    try:
        content = json.loads(file.read_text())
        content["summary"], content["episodes"], content["conditions"], content["influence"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"evaluation: expected a summary.json of `rllib evaluate` in {file}, got: {reason_of(error)}. "
            "Give the folder that `rllib evaluate` wrote."
        ) from error
    return content


def summary_table(content: dict[str, Any]) -> Table:
    """Returns a table with one column per controller: mean and standard error of each metric over the episodes.

    A class's return that equals the team's in every column, as in tag, has no row of its own. The team under
    channel interventions is in `conditions_table`.
    """
    summary = {name: metrics for name, metrics in content["summary"].items() if name not in content["conditions"]}
    table = Table(title=f"{content['episodes']} episodes from seed {content['first_seed']}: mean ± standard error")
    found = dict.fromkeys(key for metrics in summary.values() for key in metrics if key != RETURN_MINUS_TEAM)
    own = {key: (key.replace("_", " "), "{:.2f}") for key in found}  # of other games than tag
    lines, team = (METRICS if RETURN_ADVERSARY in found else own), team_return(found)
    alike = {
        key
        for key in lines
        if key.startswith("return_") and key not in (team, f"return_{GOOD_POLICY}")
        and all(_equal(each.get(key), each[team]) for each in summary.values())
    }  # fmt: skip
    _fill(table, {key: line for key, line in lines.items() if key not in alike}, summary)
    return table


def _equal(some: Mapping[str, float | None] | None, others: Mapping[str, float | None]) -> bool:
    """Returns whether two metrics have the same mean and the same standard error."""
    if some is None:
        return False
    pairs = [(some[key], others[key]) for key in ("mean", "standard_error")]
    return all(a == b or (a is not None and b is not None and math.isclose(a, b, abs_tol=1e-9)) for a, b in pairs)


def conditions_table(content: dict[str, Any]) -> Table:
    """Returns a table with one row per channel intervention: the team's return, and its change on the same seeds."""
    table = Table("intervention", title="the team under channel interventions: mean ± standard error")
    returns = team_return(content["summary"]["team"])
    forms = {returns: "{:.1f}", RETURN_MINUS_TEAM: "{:+.1f}"}
    labels = ["return per adversary" if returns == RETURN_ADVERSARY else "return per agent", "difference from the team"]
    if returns == RETURN_ADVERSARY:
        forms["captured"] = "{:.0%}"
        labels.append("captured")
    for label in labels:
        table.add_column(label, justify="right")
    for name in ("team", *content["conditions"]):
        metrics = content["summary"][name]
        table.add_row(name, *(_cell(metrics, key, form) for key, form in forms.items()))
    return table


def influence_table(content: dict[str, Any]) -> Table:
    """Returns a table with one column per class: influence of the other class's messages, entropy of attention."""
    table = Table(title="influence of the other class's messages: mean ± standard error over the episodes")
    _fill(table, INFLUENCE, content["influence"])
    return table


def _fill(table: Table, lines: dict[str, tuple[str, str]], columns: dict[str, dict[str, Any]]) -> None:
    """Adds one row for each metric that any column has."""
    table.add_column("", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=len(columns) <= 4, overflow="fold")
    for key, (label, form) in lines.items():
        cells = [_cell(metrics, key, form) for metrics in columns.values()]
        if any(cells):
            table.add_row(label, *cells)


def _cell(metrics: dict[str, Any], key: str, form: str) -> str:
    if key not in metrics:
        return ""
    mean, error = form.format(metrics[key]["mean"]), metrics[key]["standard_error"]
    return mean if error is None else f"{mean} ± {form.replace('+', '').format(error)}"
