"""A trial's results, one per training iteration, from the files that Tune's loggers write."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rllib_tag.errors import ConfigError, reason_of
from rllib_tag.files import folders
from rllib_tag.names import RETURN_ADVERSARY, RETURN_TEAM

# Tune writes every result to both, but the CSV only has the columns of the first result.
JSON, CSV = "result.json", "progress.csv"
ITERATION = "training_iteration"
SECONDS = "time_total_s"
CUSTOM = "env_runners/custom_metrics/"  # where RLlib puts this project's own metrics
RETURN = f"{CUSTOM}{RETURN_ADVERSARY}_mean"
TEAM_RETURN = f"{CUSTOM}{RETURN_TEAM}_mean"  # in games other than tag
EPISODE_REWARD = "env_runners/episode_reward_mean"  # RLlib's own: summed over all agents

Result = dict[str, Any]  # flattened, with `/` between levels


def env_steps(result: Mapping[str, Any]) -> int:
    """Returns the environment steps sampled up to a result; a step of all agents counts as one.

    `timesteps_total` and `num_env_steps_sampled_lifetime` may differ: with `count_steps_by: agent_steps`, RLlib counts
    the steps of each agent there.
    """
    return int(result["num_env_steps_sampled" if "num_env_steps_sampled" in result else "timesteps_total"])


def result_files(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the result files at or below a path, one per trial: `result.json`, or else `progress.csv`."""
    if Path(path).is_file():
        return [Path(path)]
    found = ([folder / name for name in (JSON, CSV) if (folder / name).is_file()] for folder in folders(path))
    return sorted(files[0] for files in found if files)


def read_results(file: Path) -> list[Result]:
    """Returns the results in a `result.json` or a CSV, in order, as `parse_results` does.

    Raises:
        ConfigError: If the file cannot be read or contains something else.
    """
    try:
        if file.suffix == ".json":
            return parse_results(file.read_text())
        with file.open(newline="") as opened:
            return _in_order({key: _number(text) for key, text in row.items()} for row in csv.DictReader(opened))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ConfigError(
            f"results: expected a readable {JSON} or {CSV}, got {file} ({reason_of(error)}). Give another file."
        ) from error


def parse_results(text: str) -> list[Result]:
    """Returns the results in the text of a `result.json`, in order, without the config that each of them repeats.

    A trial that continues from a checkpoint writes the iterations since then again; the later ones count. A line that
    is incomplete because the process was killed is skipped.

    Raises:
        ValueError: If there are lines, but none contains a result.
    """
    rows, lines = [], text.splitlines()
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            result = json.loads(line)
            if isinstance(result, dict) and ITERATION in result:
                rows.append(flat({key: value for key, value in result.items() if key != "config"}))
    if lines and not rows:
        raise ValueError("no line contains a result")
    return _in_order(rows)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested mapping to one mapping, with `/` between levels."""
    out: dict[str, Any] = {}
    for key, value in mapping.items():
        out |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def with_number(results: Iterable[Result], metric: str) -> list[Result]:
    """Returns the results that have a number for a metric.

    Results may lack it: episode metrics until an episode has ended, and evaluation metrics without an evaluation.

    Raises:
        ValueError: If the metric of a result is something else.
    """
    found = []
    for result in results:
        value = result.get(metric)
        if value in (None, "", "null"):  # as Tune writes NaN
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{metric} is {value!r}")
        if not math.isnan(value):
            found.append(result)
    return found


def _in_order(rows: Iterable[Result]) -> list[Result]:
    kept: list[Result] = []
    for row in rows:
        number = row[ITERATION]
        while kept and kept[-1][ITERATION] >= number:
            kept.pop()
        kept.append(row)
    return kept


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False}.get(text, text)
