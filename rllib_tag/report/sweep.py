"""Reads what a sweep tried, and how its trials did, from the folders that Tune writes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from rich.table import Table

from rllib_tag.errors import ConfigError, check_choice, check_keys, reason_of
from rllib_tag.report.figures import COLOURS, new_figure
from rllib_tag.results import (
    CUSTOM,
    EPISODE_REWARD,
    JSON,
    RETURN,
    SECONDS,
    TEAM_RETURN,
    Result,
    env_steps,
    flat,
    read_results,
    result_files,
    with_number,
)

Mode = Literal["max", "min"]
LAST = 5  # iterations to average: a single one is as noisy as its episodes


class IncomparableError(ConfigError):
    """Trials have no metric to compare them by, at least not yet."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The trials of a sweep.

    Args:
        varied: The keys of the config in which trials differ, with `/` between levels.
        metric: The metric by which they are compared.
        rows: One mapping per trial, best first: `trial`, the varied keys, `env_steps`, `seconds`, `finished`, and the
            metric's mean over the last 5 iterations that have it.
    """

    varied: list[str]
    metric: str
    rows: list[dict[str, Any]]


def read_sweep(folder: str | os.PathLike[str], metric: str | None = None, mode: Mode | None = None) -> Sweep:
    """Reads a finished or interrupted sweep.

    Args:
        folder: An experiment's folder, with a folder for each trial.
        metric: A metric of the trials' results, with `/` between levels; this project's own may be given without
            prefix. Default: the experiment's metric, or else return per adversary; if no trial has it, RLlib's reward
            per episode.
        mode: Whether `max` or `min` is best. Default: the experiment's mode, or `max`.

    Raises:
        ConfigError: If there are no trials with results, no such metric, or a file that cannot be read.
    """
    if not os.path.isdir(folder):
        raise ConfigError(
            f"sweep: expected an experiment's folder, got {folder}, which does not exist or is a file. "
            "Give the folder that `rllib train` named."
        )
    said = _experiment(Path(folder))
    mode = mode or said.get("mode", "max")
    check_choice("--mode", mode, get_args(Mode))
    configs, trials = [], {}
    for path in sorted(Path(folder).glob("*/params.json")):
        try:
            config = flat(json.loads(path.read_text()))
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"sweep: expected a trial's config in {path}, got: {reason_of(error)}. Remove this trial."
            ) from error
        results = [result for file in result_files(path.parent) for result in read_results(file)]
        if results:  # none before the end of a trial's first iteration
            configs.append(config)
            trials[path.parent] = results
    if not trials:
        raise IncomparableError(
            f"sweep: expected trials with results in {folder}, found none. Give an experiment's folder."
        )
    metric = _metric(metric, said.get("metric"), [result for results in trials.values() for result in results])
    rows = [_row(trial, results, metric) for trial, results in trials.items()]
    if all(math.isnan(row[metric]) for row in rows):
        raise IncomparableError(
            f"sweep: expected numbers under {metric} in {folder}, found none: no episode has ended. Train for longer."
        )
    keys = dict.fromkeys(key for config in configs for key in config)
    varied = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    for row, config in zip(rows, configs, strict=True):
        row |= {key: config.get(key) for key in varied}
    # A trial without the metric's value comes last.
    worst = -math.inf if mode == "max" else math.inf
    rows.sort(key=lambda row: worst if math.isnan(row[metric]) else row[metric], reverse=mode == "max")
    order = ["trial", *varied, "env_steps", "seconds", "finished", metric]
    return Sweep(varied, metric, [{key: row[key] for key in order} for row in rows])


def _experiment(folder: Path) -> dict[str, Any]:
    """Returns what `rllib train` recorded of the experiment; empty if something else ran it."""
    records = sorted(folder.glob("run_*.json"))
    try:
        return json.loads(records[-1].read_text())["experiment"] if records else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"sweep: expected a record of `rllib train` in {records[-1]}, got: {reason_of(error)}. Remove it."
        ) from error


def _metric(asked: str | None, said: str | None, results: list[Result]) -> str:
    """Returns the full name of the metric to compare by, out of those that some result has."""
    known = {key for result in results for key in result}
    if asked is None and said is None:
        return next((metric for metric in (RETURN, TEAM_RETURN) if metric in known), EPISODE_REWARD)
    metric = asked or said or ""
    metric = CUSTOM + metric if CUSTOM + metric in known else metric
    if asked is None and metric not in known:  # the name was checked before the run
        raise IncomparableError(
            f"metric: expected results with {metric}, found none: no episode has ended, or the callbacks "
            "report no such metric. Choose another with --metric."
        )
    check_keys("--metric", [metric], known, f"{JSON} in a trial's folder lists all metrics")
    return metric


def _row(trial: Path, results: list[Result], metric: str) -> dict[str, Any]:
    end = results[-1]
    try:
        values = [result[metric] for result in with_number(results, metric)[-LAST:]]
        steps, seconds = env_steps(end), float(end[SECONDS])
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"sweep: expected a metric of numbers, got {metric} in {trial} ({reason_of(error)}). Choose another."
        ) from error
    return {
        "trial": trial.name,
        "env_steps": steps,
        "seconds": round(seconds, 1),
        "finished": bool(end.get("done")),
        metric: float(np.mean(values)) if values else math.nan,
    }


def sweep_table(sweep: Sweep, most: int = 10) -> Table:
    """Returns a table of the best trials, one per row, with a column for each key in which trials differ."""
    unfinished = sum(not row["finished"] for row in sweep.rows)
    count = len(sweep.rows)
    title = f"the best {most} of {count} trials" if count > most else f"{count} trial{'s' if count > 1 else ''}"
    title += f", {unfinished} unfinished" if unfinished else ""
    name = sweep.metric.rsplit("/", 1)[-1]
    table = Table(title=title, caption=f"{name}: the mean over each trial's last {LAST} iterations that have it")
    for column in (*sweep.varied, "env steps", name):
        table.add_column(column, overflow="fold")
    for row in sweep.rows[:most]:
        steps = f"{row['env_steps']:,}" + ("" if row["finished"] else " (unfinished)")
        values = (row[key] for key in sweep.varied)
        shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        table.add_row(*shown, steps, f"{row[sweep.metric]:.4g}")
    return table


def draw_sweep(sweep: Sweep) -> Figure:
    """Draws the metric over each varied key, with one panel per key and one dot per trial.

    The best trial is filled. A dot's area grows with the trial's environment steps, since some trials end early.

    Args:
        sweep: The sweep.

    Raises:
        ConfigError: If no key varies.
    """
    if not sweep.varied:
        raise ConfigError(
            "sweep: expected trials that differ in their config, got none that do. There is nothing to draw."
        )
    columns = min(3, len(sweep.varied))
    lines = math.ceil(len(sweep.varied) / columns)
    figure, panels = new_figure((3.2 * columns, 2.8 * lines), lines, columns, sharey=True, squeeze=False)
    values = [row[sweep.metric] for row in sweep.rows]
    most = max(row["env_steps"] for row in sweep.rows)
    areas = [10 + 50 * row["env_steps"] / most for row in sweep.rows]
    for axes, key in zip(panels.flat, sweep.varied, strict=False):
        places = _places(axes, [row[key] for row in sweep.rows])
        others = {"facecolors": "none", "edgecolors": COLOURS[0], "linewidths": 1.5}
        axes.scatter(places[:1], values[:1], s=areas[:1], color=COLOURS[1], label="best")
        axes.scatter(places[1:], values[1:], s=areas[1:], label=f"others (area: env steps, up to {most:,})", **others)
        axes.set_xlabel(key)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(sweep.varied) :]:
        axes.set_visible(False)
    figure.supylabel(sweep.metric.rsplit("/", 1)[-1], fontsize="medium")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    return figure


def _places(axes: Any, values: list[Any]) -> list[float]:
    """Returns the places of a key's values on the axis: finite numbers by their size, anything else side by side."""
    if all(_is_number(value) and math.isfinite(value) for value in values):
        if min(values) > 0 and max(values) >= 10 * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        return values
    numbers = sorted({value for value in values if _is_number(value)})
    others = sorted({str(value) for value in values if not _is_number(value)})
    names = [*(f"{number:g}" for number in numbers), *others]
    axes.set_xticks(range(len(names)), names, fontsize="small", rotation=20 if max(map(len, names)) > 8 else 0)
    axes.set_xlim(-0.5, len(names) - 0.5)
    places = {value: place for place, value in enumerate((*numbers, *others))}
    return [places[value if _is_number(value) else str(value)] for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
