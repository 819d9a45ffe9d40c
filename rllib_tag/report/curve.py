"""Learning curves from Tune's `progress.csv`."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rllib_tag.errors import ConfigError
from rllib_tag.report.figures import COLOURS, draw_levels, new_figure, save_figure

X, Y = "timesteps_total", "env_runners/custom_metrics/return_adversary_mean"


def read_curve(path: str | os.PathLike[str]) -> tuple[list[int], list[float]]:
    """Reads env steps and mean return per adversary of a trial.

    Args:
        path: A `progress.csv`, a trial's folder, or an experiment's folder with one trial.

    Raises:
        ConfigError: If there is no such file, more than one, or none of the figures in it.
    """
    given = Path(path)
    files = [given] if given.is_file() else sorted(given.glob("**/progress.csv"))
    if len(files) != 1:
        raise ConfigError(
            f"curve: expected one progress.csv at or below {given}, found {len(files)}. Name a trial's folder."
        )
    try:
        points = {int(row[X]): float(row[Y]) for row in read_progress(files[0])}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ConfigError(
            f"curve: expected a readable progress.csv, got {files[0]} ({error!r}). Name another."
        ) from error
    if not points:
        raise ConfigError(
            f"curve: expected figures under {Y} in {files[0]}, found none. Train with rllib_tag.TagCallbacks."
        )
    return list(points), list(points.values())


def read_progress(file: Path) -> list[dict[str, str]]:
    """The iterations of a `progress.csv` that have a return, in order of their steps.

    A resumed run writes the steps since its checkpoint again; the later ones count.
    """
    with file.open(newline="") as opened:
        rows = {int(row[X]): row for row in csv.DictReader(opened) if row.get(Y)}
    return [rows[step] for step in sorted(rows)]


def draw_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    levels: Mapping[str, float],
    out: str | os.PathLike[str],
) -> list[Path]:
    """Draws learning curves with horizontal levels to compare with.

    Args:
        curves: Env steps and returns by label.
        levels: Returns by controller name, drawn as dashed lines.
        out: The image; see `save_figure`.

    Raises:
        ConfigError: If the image cannot be written.
    """
    figure, axes = new_figure((7, 4))
    for colour, (label, (steps, values)) in zip(COLOURS * len(curves), curves.items(), strict=False):
        axes.plot([step / 1000 for step in steps], values, color=colour, linewidth=2, label=label)
    draw_levels(axes, levels)
    axes.set_xlabel("environment steps (thousands)")
    axes.set_ylabel("return per adversary\n(MPE's own reward, training policy)")
    axes.set_xlim(left=0)
    drawn = [*levels.values(), *(value for _, values in curves.values() for value in values)]
    axes.set_ylim(bottom=min(0, *drawn), top=max(1, 1.08 * max(drawn)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return save_figure(figure, out)
