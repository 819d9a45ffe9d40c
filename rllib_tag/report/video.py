"""Draws a recorded episode as a video, with the communication graph."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.patches import Circle

from rllib_tag.errors import ConfigError, check_choice, reason_of
from rllib_tag.report.figures import new_figure

CLASS_COLOURS = ("#0072B2", "#D55E00")
GOOD_COLOUR, LANDMARK_COLOUR, LINK_COLOUR = "#009E73", "0.75", "0.25"
FRAMES_PER_S = 10  # MPE's steps last 0.1 s
FORMATS = ("gif", "mp4")
SHOWN = (
    "seed", "source", "classes", "sizes", "landmarks", "landmark_sizes", "comm_range", "positions", "links",
    "attention", "rewards",
)  # fmt: skip


def read_episode(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads an episode that `rllib rollout` recorded.

    Raises:
        ConfigError: If it is missing or something else.
    """
    try:
        episode = json.loads(Path(path).read_text())
        [episode[key] for key in SHOWN]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"episode: expected a file of `rllib rollout` at {path}, got: {reason_of(error)}. Record it again."
        ) from error
    return episode


def video(episode: dict[str, Any], form: str) -> bytes:
    """Draws every step of an episode: agents in class colours, links that are thicker for more attention, the return.

    Args:
        episode: What `read_episode` returns.
        form: One of `FORMATS`.

    Raises:
        ConfigError: If the form is unknown.
    """
    check_choice("video", form, FORMATS)
    extra = (
        {"loop": 0, "duration": 1000 / FRAMES_PER_S, "bits": 5}  # 32 colours halve the file and look the same
        if form == "gif"
        else {"fps": FRAMES_PER_S, "macro_block_size": 2}
    )
    canvas, out = _Canvas(episode), BytesIO()
    imageio.mimwrite(out, [canvas.frame(step) for step in range(len(episode["positions"]))], format=form, **extra)
    return out.getvalue()


class _Canvas:
    """One figure whose artists move from step to step."""

    def __init__(self, episode: dict[str, Any]) -> None:
        self.episode = episode
        self.positions = np.array(episode["positions"])  # (S + 1, agents, 2)
        self.returns = np.concatenate([[0], np.cumsum(episode["rewards"])])
        num_adversaries = len(episode["classes"])
        self.figure, self.axes = new_figure((4.8, 5.2), dpi=80)
        self.canvas = FigureCanvasAgg(self.figure)
        reach = max(1.2, min(2.5, float(np.abs(self.positions[:, :num_adversaries]).max()) + 0.2))
        self.axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        for place, size in zip(episode["landmarks"], episode["landmark_sizes"], strict=True):
            self.axes.add_patch(Circle(place, size, color=LANDMARK_COLOUR, zorder=1))
        self.links = LineCollection([], colors=LINK_COLOUR, zorder=2)
        self.axes.add_collection(self.links)
        colours = [CLASS_COLOURS[c] for c in episode["classes"]]
        colours += [GOOD_COLOUR] * (self.positions.shape[1] - num_adversaries)
        self.ranges = [Circle((0, 0), episode["comm_range"] or 0, fill=False, color=colour, alpha=0.25, linestyle=":")
                       for colour in colours[:num_adversaries]]  # fmt: skip
        self.bodies = [Circle((0, 0), size, facecolor=colour, edgecolor="black", linewidth=0.8, zorder=3)
                       for size, colour in zip(episode["sizes"], colours, strict=True)]  # fmt: skip
        for patch in [*self.ranges, *self.bodies]:
            self.axes.add_patch(patch)
        handles = [Circle((0, 0), color=colour) for colour in (*CLASS_COLOURS, GOOD_COLOUR, LANDMARK_COLOUR)]
        labels = ["class A (sees landmarks)", "class B (sees prey)", "prey", "landmark"]
        self.figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        self.title = self.axes.set_title("", fontsize=10)

    def frame(self, step: int) -> np.ndarray:
        """Returns the picture of a step: (height, width, 3) uint8."""
        positions = self.positions[step]
        for patch, place in zip(self.bodies, positions, strict=True):
            patch.center = place
        for patch, place in zip(self.ranges, positions, strict=False):
            patch.center = place
        linked = np.triu(np.array(self.episode["links"][step]), 1)
        attention = np.array(self.episode["attention"][step])
        pairs = np.argwhere(linked)
        self.links.set_segments([positions[[i, j]] for i, j in pairs])
        self.links.set_linewidth([0.6 + 5 * max(attention[i, j], attention[j, i]) for i, j in pairs])
        last = len(self.positions) - 1
        self.title.set_text(f"step {step} of {last}   return per adversary {self.returns[step]:.0f}")
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()
