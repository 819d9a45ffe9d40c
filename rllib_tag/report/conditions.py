"""A figure of a team's returns under channel interventions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from rllib_tag.report.figures import COLOURS, draw_levels, new_figure

KINDS = {
    "range": "range of links (world units)", "delay": "delay (steps)", "drop": "share of messages lost",
    "quantize": "bits per number",
}  # fmt: skip


def draw_conditions(found: Mapping[str, np.ndarray], levels: Mapping[str, float], label: str) -> Figure:
    """Draws returns over the range of links, the delay, loss and bits of messages: each run, and the mean.

    Args:
        found: (runs,) returns by controller: `team`, and interventions, of which at least one has a number.
        levels: Returns to draw as dashed lines, by name.
        label: What the returns are.
    """
    series = {
        kind: {float(name.partition(":")[2]): runs for name, runs in found.items() if name.startswith(f"{kind}:")}
        for kind in KINDS
    }
    series = {kind: points for kind, points in series.items() if points}
    figure, grid = new_figure((3 * len(series), 3.4), 1, len(series), sharey=True, squeeze=False)
    for axes, (kind, points) in zip(grid[0], series.items(), strict=True):
        if kind in ("delay", "drop"):
            points[0.0] = found["team"]
        ends = sorted(points)
        finite = [x for x in ends if math.isfinite(x)]
        x = [value if math.isfinite(value) else 1.25 * max(finite, default=1) for value in ends]
        runs = np.array([points[value] for value in ends])  # (points, runs)
        axes.plot(x, runs, color=COLOURS[0], alpha=0.35, linewidth=1)
        axes.plot(x, runs.mean(1), "o-", color=COLOURS[0], linewidth=2)
        if not math.isfinite(ends[-1]):
            axes.set_xticks([*finite[::2], x[-1]], [*(f"{value:g}" for value in finite[::2]), "all"])
        draw_levels(axes, levels, write=axes is grid[0, -1])
        axes.set_xlabel(KINDS[kind])
        axes.spines[["top", "right"]].set_visible(False)
    if min([*levels.values(), *(runs.min() for points in series.values() for runs in points.values())]) >= 0:
        grid[0, 0].set_ylim(0, None)
    grid[0, 0].set_ylabel(label)
    return figure
