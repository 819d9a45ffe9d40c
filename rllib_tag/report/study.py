"""Aggregates runs: interquartile means with bootstrap intervals, and figures of them."""

from __future__ import annotations

import csv
import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from rllib_tag.errors import ConfigError
from rllib_tag.names import GAME, RETURN_ADVERSARY
from rllib_tag.report.figures import COLOURS, draw_levels, legend_height, line_style, new_figure, save_figure
from rllib_tag.report.heat_map import VALUE, read_transfer
from rllib_tag.report.table import read_summary

REPETITIONS = 2000  # of the bootstrap
Interval = tuple[float, float, float]  # estimate, and the lower and upper end of its 95 % bootstrap interval
Levels = Mapping[str, float]


class Study:
    """The results of runs, each in a folder `ARM/seed_N/`.

    Args:
        folder: The folder of the arms' folders.

    Attributes:
        arms: The runs' folders by arm.

    Raises:
        ConfigError: If there is no run, or a file does not fit.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.arms: dict[str, list[Path]] = {}
        for summary in sorted(self.folder.glob("*/seed_*/summary.json")):
            self.arms.setdefault(summary.parent.parent.name, []).append(summary.parent)
        if not self.arms:
            raise ConfigError(f"report: expected runs as ARM/seed_N/ in {folder}, found none. Run the study first.")

    def returns(self, arm: str, controller: str = "team") -> np.ndarray:
        """Returns the returns per adversary of an arm's runs: (seeds, episodes)."""
        runs = []
        for folder in self.runs(arm):
            rows = _read(folder / "episodes.csv", "controller", RETURN_ADVERSARY)
            runs.append([float(row[RETURN_ADVERSARY]) for row in rows if row["controller"] == controller])
        if not runs[0] or any(len(run) != len(runs[0]) for run in runs):
            raise ConfigError(
                f"report: expected as many episodes of {controller!r} in all runs of {arm}, got "
                f"{', '.join(str(len(run)) for run in runs)}. Evaluate all runs alike."
            )
        return np.array(runs)

    def runs(self, arm: str) -> list[Path]:
        """Returns the folders of an arm's runs."""
        if arm not in self.arms:
            raise ConfigError(f"report: expected one of the arms {', '.join(self.arms)}, got {arm!r}. Run it first.")
        return self.arms[arm]

    def scores(self, arms: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the mean return of each run of each arm: (seeds,)."""
        return {arm: self.returns(arm).mean(1) for arm in arms}

    def curves(self, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns environment steps, (points,), and the training policy's return in each run, (seeds, points).

        Raises:
            ConfigError: If the runs' curves have different steps.
        """
        files = [_read(folder / "curve.csv", "env_steps", RETURN_ADVERSARY) for folder in self.runs(arm)]
        steps = [[int(row["env_steps"]) for row in rows] for rows in files]
        if any(other != steps[0] for other in steps):
            raise ConfigError(
                f"report: expected the same steps in all curves of {arm}, got different ones. Train alike."
            )
        return np.array(steps[0]), np.array([[float(row[RETURN_ADVERSARY]) for row in rows] for rows in files])

    def conditions(self, arm: str) -> dict[str, np.ndarray]:
        """Returns the mean return of each run of an arm under each channel intervention: (seeds,) by intervention.

        Raises:
            ConfigError: If the runs were evaluated under different interventions.
        """
        value = f"{RETURN_ADVERSARY}_mean"
        files = [_read(folder / "conditions.csv", "condition", value) for folder in self.runs(arm)]
        found = [{row["condition"]: float(row[value]) for row in rows} for rows in files]
        if any(each.keys() != found[0].keys() for each in found):
            raise ConfigError(
                f"report: expected the same interventions in all runs of {arm}, got different ones. Evaluate all runs "
                "alike."
            )
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    def influence(self, arm: str) -> dict[tuple[str, str], np.ndarray]:
        """Returns each class's influence metrics, such as the entropy of its attention: (seeds,) by class and metric.

        Raises:
            ConfigError: If a run's summary cannot be read.
        """
        found: dict[tuple[str, str], list[float]] = {}
        for folder in self.runs(arm):
            for name, means in read_summary(folder)["influence"].items():
                for metric, value in means.items():
                    found.setdefault((name, metric), []).append(value["mean"])
        return {place: np.array(values) for place, values in found.items()}

    def probes(self, arm: str) -> dict[tuple[str, str, str], np.ndarray]:
        """Returns how well a linear map reads the prey from messages: R², (seeds,) by what is read, class and layer."""
        found: dict[tuple[str, str, str], list[float]] = {}
        for folder in self.runs(arm):
            for row in _read(folder / "probe.csv", "class", "layer", "r2_position", "r2_velocity"):
                for what in ("position", "velocity"):
                    place = what, row["class"], row["layer"]
                    found.setdefault(place, []).append(float(row[f"r2_{what}"]))
        return {place: np.array(values) for place, values in found.items()}

    def transfers(self, arm: str) -> list[dict[str, Any]]:
        """Returns the transfer grid of an arm: game, controller, mean return, and that of each run in `runs`, (seeds,).

        Raises:
            ConfigError: If a game was not played by all runs.
        """
        found: dict[tuple[str, ...], list[float]] = {}
        for folder in self.runs(arm):
            for row in read_transfer(folder):
                found.setdefault(tuple(row[key] for key in (*GAME, "controller")), []).append(float(row[VALUE]))
        if any(len(runs) != len(self.runs(arm)) for runs in found.values()):
            raise ConfigError(
                f"report: expected the same games in all runs of {arm}, got different ones. Transfer all alike."
            )
        return [
            {
                **dict(zip((*GAME, "controller"), place, strict=True)),
                "runs": np.array(runs),
                VALUE: float(np.mean(runs)),
            }
            for place, runs in found.items()
        ]


def _read(path: Path, *columns: str) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise ConfigError(f"report: expected a readable {path}, got {error}. Run it again.") from error
    if not rows or not {*columns} <= rows[0].keys():
        raise ConfigError(f"report: expected rows with {' and '.join(columns)} in {path}, found none. Write it again.")
    return rows


def interquartile_means(scores: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Returns the interquartile mean of each arm's runs, (seeds,), with its bootstrap interval.

    With three runs, the interquartile mean is the mean, and the interval spans the lowest to the highest run, which is
    less than 95 %.

    Source: Agarwal et al. 2021.
    """
    return {arm: bootstrap(interquartile_mean, runs) for arm, runs in scores.items()}


def interquartile_mean(runs: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half along the last axis."""
    return stats.trim_mean(runs, 0.25, axis=-1)


def bootstrap(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> Interval:
    """Returns a statistic of several independent samples of runs, with its percentile bootstrap interval over the runs.

    If a resample gives no finite value, such as a ratio to zero, the interval is unbounded.

    Args:
        statistic: Reduces the last axis of each of its arguments.
        samples: (seeds,) each.
    """
    middle, low, high = _pointwise(statistic, *samples)
    return float(middle), float(low), float(high)


def _pointwise(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> np.ndarray:
    """Returns estimates, and the lower and upper ends of their intervals, (3, ...), for samples of (..., seeds)."""
    rng = np.random.default_rng(0)
    drawn = (sample[..., rng.integers(sample.shape[-1], size=(REPETITIONS, sample.shape[-1]))] for sample in samples)
    with np.errstate(divide="ignore", invalid="ignore"):
        found, resampled = np.asarray(statistic(*samples)), statistic(*drawn)
        low, high = np.percentile(resampled, [2.5, 97.5], axis=-1)
    is_bounded = np.isfinite(resampled).all(-1)
    return np.array([found, np.where(is_bounded, low, -math.inf), np.where(is_bounded, high, math.inf)])


def gap_recovered(scores: Mapping[str, np.ndarray], arm: str, low: str, high: str) -> Interval:
    """Returns the share of the gap between two arms' interquartile means that an arm recovers, with its interval."""

    def share(*samples: np.ndarray) -> np.ndarray:
        reached, floor, top = map(interquartile_mean, samples)
        return _quotient(reached - floor, top - floor)

    return bootstrap(share, *(scores[name] for name in (arm, low, high)))


def ratio(scores: np.ndarray, others: np.ndarray) -> Interval:
    """Returns the ratio of two samples' interquartile means, with its interval."""
    return bootstrap(lambda x, y: _quotient(interquartile_mean(x), interquartile_mean(y)), scores, others)


def _quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns part / whole; NaN where the whole is not positive, because the quotient then means something else."""
    return np.where(whole > 0, part / whole, np.nan)


def difference(scores: np.ndarray, others: np.ndarray) -> Interval:
    """Returns the difference of two samples' interquartile means, with its interval."""
    return bootstrap(lambda x, y: interquartile_mean(x) - interquartile_mean(y), scores, others)


def improvement(scores: Mapping[str, np.ndarray], arm: str, others: Sequence[str]) -> dict[str, Interval]:
    """Returns the probability that a run of an arm returns more than one of each other arm, with its interval.

    Source: Agarwal et al. 2021.
    """

    def wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)) + 1) / 2

    return {other: bootstrap(wins, scores[arm], scores[other]) for other in others}


def late_gain(runs: np.ndarray) -> Interval:
    """Returns how much more runs, (seeds, points), return in the last fifth of training than in the fifth before.

    Raises:
        ConfigError: If there are fewer than ten points.
    """
    if runs.shape[1] < 10:
        raise ConfigError(f"report: expected curves of at least 10 points, got {runs.shape[1]}. Train for longer.")
    fifth = runs.shape[1] // 5
    return bootstrap(interquartile_mean, runs[:, -fifth:].mean(1) - runs[:, -2 * fifth : -fifth].mean(1))


def draw_learning_curves(study: Study, labels: Mapping[str, str], levels: Levels, out: Path) -> list[Path]:
    """Draws interquartile means of the runs' returns over environment steps, with 95 % intervals."""
    figure, axes = new_figure((7, 4.2 + legend_height(len(labels))))
    for i, (arm, label) in enumerate(labels.items()):
        style = line_style(i)
        steps, runs = study.curves(arm)
        middle, low, high = _pointwise(interquartile_mean, runs.T)
        axes.plot(steps / 1e6, middle, linewidth=2, label=f"{label} ({len(runs)} seeds)", **style)
        axes.fill_between(steps / 1e6, low, high, color=style["color"], alpha=0.2, linewidth=0)
    draw_levels(axes, levels)
    axes.set(xlabel="environment steps (millions)", xlim=(0, None), ylim=(0, None))
    axes.set_ylabel("return per adversary\n(training policy)")
    return _finish(figure, axes, out)


def draw_bars(scores: Mapping[str, np.ndarray], labels: Mapping[str, str], levels: Levels, out: Path) -> list[Path]:
    """Draws the interquartile mean of each arm with its 95 % interval, and each run as a point."""
    found = interquartile_means({arm: scores[arm] for arm in labels})
    figure, axes = new_figure((7, 0.5 * len(labels) + 1.6))
    places = np.arange(len(labels))[::-1]
    for place, (arm, (middle, low, high)) in zip(places, found.items(), strict=True):
        axes.barh(place, middle, height=0.6, color=COLOURS[0], alpha=0.35)
        axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=3)
        axes.plot(scores[arm], np.full(len(scores[arm]), place), "o", color="0.2", markersize=4)
        axes.annotate(
            f"{middle:.0f}",
            (max(high, scores[arm].max()), place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    draw_levels(axes, levels, upright=True)
    axes.set_yticks(places, [textwrap.fill(f"{label} ({len(scores[arm])})", 28) for arm, label in labels.items()])
    axes.set(xlabel="return per adversary:\ninterquartile mean, 95 % interval, runs", xlim=(0, None))
    return _finish(figure, axes, out, legend=False)


def draw_profiles(study: Study, labels: Mapping[str, str], out: Path) -> list[Path]:
    """Draws the share of evaluation episodes that return more than each level, with 95 % intervals over the runs.

    Source: after the performance profiles of Agarwal et al. 2021, with episodes in place of runs and tasks.
    """
    figure, axes = new_figure((7, 4 + legend_height(len(labels))))
    returns = {arm: study.returns(arm) for arm in labels}
    levels = np.linspace(0, max(float(runs.max()) for runs in returns.values()), 100)
    for i, (arm, label) in enumerate(labels.items()):
        style = line_style(i)
        above = (returns[arm][..., None] > levels).mean(1)  # (seeds, levels)
        middle, low, high = _pointwise(lambda runs: runs.mean(-1), above.T)
        axes.plot(levels, middle, linewidth=2, label=label, **style)
        axes.fill_between(levels, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel="return per adversary", ylabel="share of episodes above", xlim=(0, None), ylim=(0, 1.02))
    return _finish(figure, axes, out)


def draw_improvement(found: Mapping[str, Interval], labels: Mapping[str, str], arm: str, out: Path) -> list[Path]:
    """Draws the probabilities that a run of an arm beats one of each other arm."""
    figure, axes = new_figure((7, 0.45 * len(found) + 1.3))
    places = np.arange(len(found))[::-1]
    for place, (middle, low, high) in zip(places, found.values(), strict=True):
        axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=3)
        axes.plot(middle, place, "o", color=COLOURS[0])
    axes.axvline(0.5, color="0.35", linestyle="--", linewidth=1)
    axes.set_yticks(places, [labels[other] for other in found])
    axes.set(xlabel=f"probability that a run of “{arm}” returns more", xlim=(-0.02, 1.02))
    axes.set_ylim(-0.6, len(found) - 0.4)
    return _finish(figure, axes, out, legend=False)


def draw_sizes(scores: Mapping[int, np.ndarray], out: Path) -> list[Path]:
    """Draws returns over the numbers per message: each run, and the interquartile mean with its interval.

    Args:
        scores: (seeds,) by the numbers per message.
        out: The figure's path without a suffix.
    """
    figure, axes = new_figure((5, 3.4))
    sizes = list(scores)
    for size, runs in scores.items():
        axes.plot(np.full(len(runs), size), runs, "o", color=COLOURS[0], alpha=0.35, markersize=4)
    middle, low, high = np.array([bootstrap(interquartile_mean, scores[size]) for size in sizes]).T
    axes.errorbar(sizes, middle, (middle - low, high - middle), fmt="o-", color=COLOURS[0], linewidth=2, capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="numbers per message", ylabel="return per adversary", ylim=(0, None))
    return _finish(figure, axes, out, legend=False)


def _finish(figure: Figure, axes: Axes, out: Path, legend: bool = True) -> list[Path]:
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return save_figure(figure, out)
