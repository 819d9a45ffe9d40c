"""Draws the transfer grid as a heat map."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rllib_tag.errors import ConfigError, reason_of
from rllib_tag.names import GAME, RETURN_ADVERSARY
from rllib_tag.report.figures import new_figure

VALUE = f"{RETURN_ADVERSARY}_mean"
Row = Mapping[str, Any]


def read_transfer(path: str | os.PathLike[str]) -> list[Row]:
    """Reads what `rllib transfer` wrote.

    Args:
        path: `transfer.csv`, or the folder that holds it.

    Raises:
        ConfigError: If it is missing or something else.
    """
    file = Path(path)
    file = file / "transfer.csv" if file.is_dir() else file
    try:
        with file.open(newline="") as opened:
            rows: list[Row] = list(csv.DictReader(opened))
        for row in rows:
            float(row[VALUE]), row["controller"], [int(row[key]) for key in GAME]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ConfigError(
            f"transfer: expected a transfer.csv of `rllib transfer` in {file}, got: {reason_of(error)}. Transfer again."
        ) from error
    if not rows:
        raise ConfigError(f"transfer: expected games in {file}, found none. Transfer again.")
    return rows


def grid(rows: Sequence[Row], controller: str) -> np.ndarray:
    """Returns a controller's mean returns by numbers of class A and class B; NaN for the empty team.

    Only games with as many good agents and landmarks as the first one count.
    """
    good, obstacles = (rows[0][key] for key in GAME[2:])
    cells = {
        (int(row["num_class_a"]), int(row["num_class_b"])): float(row[VALUE])
        for row in rows
        if row["controller"] == controller and (row["num_good"], row["num_obstacles"]) == (good, obstacles)
    }
    if not cells:
        raise ConfigError(f"transfer: expected games of {controller!r}, found none. Run `rllib transfer` again.")
    out = np.full((1 + max(a for a, _ in cells), 1 + max(b for _, b in cells)), np.nan)
    for place, value in cells.items():
        out[place] = value
    return out


def draw_heat_map(rows: Sequence[Row]) -> Figure:
    """Draws every team's return, and where it lies between random play and a scripted chase.

    Colour: 0 is random play on the same game, 1 all adversaries chasing by script with full information; no colour if
    the script does not beat random play. Numbers: the mean return per adversary.

    Args:
        rows: What `read_transfer` returns.

    Raises:
        ConfigError: If a controller is missing.
    """
    team, low, high = (grid(rows, name) for name in ("team", "random", "all_chase"))
    share = np.divide(team - low, high - low, out=np.full_like(team, np.nan), where=high > low)
    figure, axes = new_figure((7, 5.6))
    image = axes.imshow(share, origin="lower", cmap="viridis", vmin=0, vmax=max(1.0, float(np.nanmax(share))))
    for (a, b), value in np.ndenumerate(team):
        if not np.isnan(value):
            is_dark = share[a, b] < 0.6 * image.norm.vmax
            axes.text(
                b, a, f"{value:.0f}", ha="center", va="center", color="white" if is_dark else "black", fontsize=10
            )
    axes.set(xlabel="class B adversaries (see the prey)", ylabel="class A adversaries (see the landmarks)")
    axes.set(xticks=range(team.shape[1]), yticks=range(team.shape[0]))
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("0: random, 1: all chase by script with full information")
    return figure
