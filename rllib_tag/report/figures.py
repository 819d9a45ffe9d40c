"""What figures share: colours, and writing them."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from rllib_tag.errors import ConfigError

# Okabe & Ito 2008: told apart by the colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save_figure(figure: Figure, out: str | os.PathLike[str]) -> list[Path]:
    """Writes a figure and closes it.

    Args:
        figure: The figure.
        out: An image whose suffix says which format; without a suffix, both a PNG and an SVG.

    Raises:
        ConfigError: If it cannot be written.
    """
    path = Path(out)
    paths = [path] if path.suffix else [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for each in paths:
            # Without a date and with names by content, the same data give the same file.
            with matplotlib.rc_context({"svg.hashsalt": "rllib_tag"}):
                figure.savefig(each, dpi=150, metadata={"Date": None} if each.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"figure: expected a writable image, got {path}: {error}. Choose another.") from error
    finally:
        plt.close(figure)
    return paths
