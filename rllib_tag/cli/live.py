"""What `rllib train` shows while it runs: a live table on a terminal, elsewhere one line per iteration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from rllib_tag.cli.output import console
from rllib_tag.names import BASELINES
from rllib_tag.results import env_steps

METRICS = {
    "return_adversary_mean": ("return", "{:.1f}"),
    "return_team_mean": ("return", "{:.1f}"),
    "captured_mean": ("captured", "{:.0%}"),
    "contacts_mean": ("contacts", "{:.1f}"),
}
BAR, TRIAL = "", "trial"
COLUMNS = (BAR, "done", "steps", "agent steps", "steps/s", "time", "to go", "return", "captured", "contacts", TRIAL)
ABOVE_AND_BELOW = 4  # lines of the terminal that the rows of trials leave free


class Results:
    """Shows every result: on a terminal in one row per trial, elsewhere on a line of its own."""

    def __init__(self) -> None:
        self._trials: dict[str, _Trial] = {}
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Results:
        return self

    def begin(self) -> None:
        """Begins an experiment: what has been shown stays above."""
        self._live.stop()
        self._live = Live(console=console, auto_refresh=False)
        self._trials.clear()

    def compare(self, name: str, baselines: Mapping[str, float]) -> None:
        """Prints what baselines return in an experiment's game."""
        if baselines:
            said = "; ".join(f"{BASELINES[one]} {value:.1f}" for one, value in baselines.items())
            console.print(f"{name}: returns to compare with: {said}")

    def show(self, trial: str, result: Mapping[str, Any], stop: Mapping[str, float]) -> None:
        """Shows a trial's newest result."""
        number, _, varied = trial.partition("_")
        shown = _Trial.of(varied, result, stop, self._trials.pop(number, None))
        self._trials[number] = shown
        if console.is_terminal and not console.is_dumb_terminal:  # a dumb one shows a table only at its end
            self._live.start()
            self._live.update(self._table(), refresh=True)
        else:
            console.print(shown.line())

    def _table(self) -> Table:
        """Returns the trials with the newest results, as many as the terminal has lines for."""
        newest = list(self._trials)[-max(1, console.height - ABOVE_AND_BELOW) :]
        rows = [self._trials[number].cells() for number in sorted(newest, key=int)]
        table = Table(box=None, pad_edge=False)
        columns = [name for name in COLUMNS if any(name in row for row in rows)]
        for name in columns:
            table.add_column(name, justify="left" if name in (BAR, TRIAL) else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(row.get(name, "") for name in columns))
        return table

    def __exit__(self, *exc: object) -> None:
        self._live.stop()


@dataclasses.dataclass(frozen=True)
class _Trial:
    """What is shown of a trial's newest result.

    Args:
        varied: The values that the trial does not share with the others.
        steps: Environment steps.
        agent_steps: Steps of all agents, if these are what counts; otherwise None.
        seconds: Time since training began.
        pace: Environment steps per second since the last result; None for the first result in this process, and after
            the trial went back to a checkpoint.
        done: The share of the run that is done; None if it is not known.
        metrics: Metrics of the episodes that ended, in words, by what they are called.
    """

    varied: str
    steps: int
    agent_steps: int | None
    seconds: float
    pace: float | None
    done: float | None
    metrics: Mapping[str, str]

    @classmethod
    def of(cls, varied: str, result: Mapping[str, Any], stop: Mapping[str, float], before: _Trial | None) -> _Trial:
        """Reads a result, of which `before` is the last one of the same trial in this process."""
        steps, seconds = env_steps(result), result["time_total_s"]
        pace = None
        if before is not None and steps > before.steps and seconds > before.seconds:
            pace = (steps - before.steps) / (seconds - before.seconds)
        shares = [result[key] / limit for key, limit in stop.items() if isinstance(result.get(key), (int, float))]
        found = result.get("env_runners", {}).get("custom_metrics", {})
        return cls(
            varied,
            steps,
            result["timesteps_total"] if result["timesteps_total"] != steps else None,
            seconds,
            pace,
            min(1.0, max(shares)) if shares else None,
            {name: form.format(found[key]) for key, (name, form) in METRICS.items() if key in found},
        )

    @property
    def left(self) -> float | None:
        """Seconds to go; None if not known."""
        return self.seconds / self.done - self.seconds if self.done else None

    def line(self) -> str:
        """The result on one line."""
        parts = [] if self.done is None else [f"{self.done:>4.0%}"]
        parts.append(f"{self.steps:>9,} steps")
        if self.agent_steps is not None:  # with `count_steps_by: agent_steps`
            parts.append(f"{self.agent_steps:>9,} agent steps")
        parts.append(f"{self.seconds:>6.0f} s")
        if self.left is not None:
            parts.append(f"{self.left:>5.0f} s to go")
        parts += [f"{name} {value:>6}" for name, value in self.metrics.items()]
        return "  ".join([*parts, *([self.varied] if self.varied else [])])

    def cells(self) -> dict[str, RenderableType]:
        """The result as cells of a table, by column."""
        cells: dict[str, RenderableType] = {}
        if self.done is not None:
            cells |= {BAR: ProgressBar(1.0, self.done, width=16), "done": f"{self.done:.0%}"}
        cells["steps"] = f"{self.steps:,}"
        if self.agent_steps is not None:
            cells["agent steps"] = f"{self.agent_steps:,}"
        if self.pace is not None:
            cells["steps/s"] = f"{self.pace:,.0f}"
        cells["time"] = _time(self.seconds)
        if self.left is not None:
            cells["to go"] = _time(self.left)
        return {**cells, **self.metrics, **({TRIAL: self.varied} if self.varied else {})}


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
