"""A trial's results, one a training iteration, from the files that Tune's loggers write."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rllib_tag.errors import ConfigError
from rllib_tag.files import folders
from rllib_tag.names import RETURN_ADVERSARY, RETURN_TEAM

# Tune writes every result to both, but to the CSV only the columns that the first result has.
JSON, CSV = "result.json", "progress.csv"
ITERATION = "training_iteration"
SECONDS = "time_total_s"
CUSTOM = "env_runners/custom_metrics/"  # where RLlib puts this project's own metrics
RETURN = f"{CUSTOM}{RETURN_ADVERSARY}_mean"
TEAM_RETURN = f"{CUSTOM}{RETURN_TEAM}_mean"  # in other games than tag
EPISODE_REWARD = "env_runners/episode_reward_mean"  # RLlib's own: summed over all agents

Result = dict[str, Any]  # flat: with `/` between levels


def env_steps(result: Mapping[str, Any]) -> int:
    """Environment steps sampled up to a result; a step in which all agents act is one.

    `timesteps_total` and `num_env_steps_sampled_lifetime` are not always that: with `count_steps_by: agent_steps`,
    RLlib counts the steps of each agent there.
    """
    return int(result["num_env_steps_sampled" if "num_env_steps_sampled" in result else "timesteps_total"])


def result_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files of results at or below a path, one for each trial: `result.json`, or else `progress.csv`."""
    if Path(path).is_file():
        return [Path(path)]
    found = ([folder / name for name in (JSON, CSV) if (folder / name).is_file()] for folder in folders(path))
    return sorted(files[0] for files in found if files)


def read_results(file: Path) -> list[Result]:
    """The results in a `result.json` or a CSV, in order; see `parse_results`.

    Raises:
        ConfigError: If the file cannot be read or holds something else.
    """
    try:
        if file.suffix == ".json":
            return parse_results(file.read_text())
        with file.open(newline="") as opened:
            return _in_order({key: _number(text) for key, text in row.items()} for row in csv.DictReader(opened))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ConfigError(f"results: expected a readable {JSON} or {CSV}, got {file} ({error!r}).") from error


def parse_results(text: str) -> list[Result]:
    """The results in the text of a `result.json`, in order, without the config that each repeats.

    A trial that goes on from a checkpoint writes the iterations since then again: the later ones count. What is left
    of a line while which the process was killed is skipped.

    Raises:
        ValueError: If no line is whole.
    """
    rows, lines = [], text.splitlines()
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            result = json.loads(line)
            if isinstance(result, dict) and ITERATION in result:
                rows.append(flat({key: value for key, value in result.items() if key != "config"}))
    if lines and not rows:
        raise ValueError("no line with a result")
    return _in_order(rows)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A mapping of mappings as one mapping, with `/` between levels."""
    out: dict[str, Any] = {}
    for key, value in mapping.items():
        out |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def with_number(results: Iterable[Result], metric: str) -> list[Result]:
    """The results that have a number for a metric.

    Others may lack it: metrics of episodes until one has ended, metrics of evaluation where none was due.

    Raises:
        ValueError: If a result has something else there.
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
