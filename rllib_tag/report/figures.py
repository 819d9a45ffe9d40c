"""What all figures share: colours, lines at baselines, saving."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from rllib_tag.errors import check_choice
from rllib_tag.files import write_files
from rllib_tag.names import BASELINES

# Okabe & Ito 2008: distinct for colour-blind readers, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
IMAGES = (".png", ".svg")  # written where no suffix chooses one


def line_style(i: int) -> dict[str, str]:
    """Returns the colour and line style of a figure's series number `i`; 28 of them differ."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS) % len(LINES)]}


def legend_height(count: int, columns: int = 2) -> float:
    """Returns the inches that a figure needs for a legend of `count` series, beyond four lines."""
    return 0.21 * max(0, math.ceil(count / columns) - 4)


def new_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1, dpi: float = 100, **options: Any
) -> tuple[Figure, Any]:
    """Returns a figure and its axes, made without pyplot: the caller's backend and open figures do not change.

    Args:
        size: Width and height in inches.
        rows: Rows of axes. Default: 1.
        columns: Columns of axes. Default: 1.
        dpi: Dots per inch, unless `save_figure` writes it. Default: 100.
        **options: Further arguments of `Figure.subplots`.
    """
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def draw_levels(axes: Axes, levels: Mapping[str, float], upright: bool = False, write: bool = True) -> None:
    """Draws dashed lines at the returns of baselines, with their names outside the axes.

    Args:
        axes: The axes to draw on.
        levels: Returns by controller name.
        upright: Whether returns are on the x axis, not the y axis. Default: False.
        write: Whether to write the names. Default: True.
    """
    line = axes.axvline if upright else axes.axhline
    form = "{:.0f}" if max(map(abs, levels.values()), default=0) >= 10 else "{:.2g}"
    for i, (name, level) in enumerate(levels.items()):
        line(level, color="0.35", linestyle="--", linewidth=1, zorder=0)
        if not write:
            continue
        text = textwrap.fill(f"{BASELINES.get(name, name)}: {form.format(level)}", 18)
        place: dict[str, Any] = (
            {
                "xy": (level, 1),
                "xycoords": ("data", "axes fraction"),
                "xytext": (0, 3 + 24 * (i % 2)),
                "ha": "center",
                "va": "bottom",
            }
            if upright
            else {"xy": (1, level), "xycoords": ("axes fraction", "data"), "xytext": (4, 0), "va": "center"}
        )
        axes.annotate(text, textcoords="offset points", fontsize=8, color="0.25", **place)


def save_figure(figure: Figure, out: str | os.PathLike[str]) -> list[Path]:
    """Writes a figure, all of its files or none.

    Args:
        figure: The figure.
        out: An image whose suffix chooses the format; without a suffix, both a PNG and an SVG.

    Raises:
        ConfigError: If it cannot be written.
    """
    paths = image_paths(out)
    return write_files(paths[0].parent, {path.name: image(figure, path.suffix) for path in paths})


def image_paths(out: str | os.PathLike[str]) -> list[Path]:
    """Returns the files that `save_figure` writes.

    Raises:
        ConfigError: If the suffix is not that of an image.
    """
    path = Path(out)
    if path.suffix:
        check_choice("figure: suffix", path.suffix, [f".{name}" for name in FigureCanvasBase.filetypes])
    return [path] if path.suffix else [path.parent / f"{path.name}{suffix}" for suffix in IMAGES]


def image(figure: Figure, suffix: str) -> bytes:
    """Returns a figure as an image in the format of a suffix such as `.svg`. The same data give the same bytes."""
    buffer = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "rllib_tag"}):  # ids that depend only on the content
        metadata = {"Date": None} if suffix == ".svg" else None
        figure.savefig(buffer, format=suffix.removeprefix("."), dpi=150, metadata=metadata)
    return buffer.getvalue()
