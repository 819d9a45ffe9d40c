"""Learning curves from trials' results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rllib_tag.errors import ConfigError
from rllib_tag.report.figures import draw_levels, legend_height, line_style, new_figure, save_figure
from rllib_tag.results import EPISODE_REWARD, RETURN, TEAM_RETURN, env_steps, read_results, result_files, with_number


def read_curve(path: str | os.PathLike[str]) -> tuple[list[int], list[float]]:
    """Reads a trial's environment steps and mean return per adversary.

    Args:
        path: A `result.json` or `progress.csv`, a trial's folder, or an experiment's folder with one trial.

    Raises:
        ConfigError: If there is no such file, more than one, or no return in it.
    """
    files = result_files(path)
    if len(files) != 1:
        raise ConfigError(
            f"curve: expected the results of one trial at or below {path}, found {len(files)}. Give a trial's folder."
        )
    results = read_results(files[0])
    metric = TEAM_RETURN if any(TEAM_RETURN in result for result in results) else RETURN
    try:
        points = with_number(results, metric)
        ended = bool(with_number(results, EPISODE_REWARD))
        steps = [env_steps(point) for point in points]
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"curve: expected steps and returns in {files[0]}, got {error!r}. Give another file."
        ) from error
    if not points:
        raise ConfigError(
            f"curve: expected returns under {metric} in {files[0]}, found none: "
            + ("train with rllib_tag.TagCallbacks." if ended else "no episode has ended. Train for longer.")
        )
    return steps, [point[metric] for point in points]


def draw_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    levels: Mapping[str, float],
    out: str | os.PathLike[str],
) -> list[Path]:
    """Draws learning curves, with horizontal levels to compare them with.

    Args:
        curves: Environment steps and returns by label.
        levels: Returns by controller name, drawn as dashed lines.
        out: The image; see `save_figure`.

    Raises:
        ConfigError: If the image cannot be written.
    """
    figure, axes = new_figure((7, 4 + legend_height(len(curves))))
    for i, (label, (steps, values)) in enumerate(curves.items()):
        axes.plot([step / 1000 for step in steps], values, linewidth=2, label=label, **line_style(i))
    draw_levels(axes, levels)
    axes.set_xlabel("environment steps (thousands)")
    axes.set_ylabel("return per adversary\n(MPE's own reward, training policy)")
    axes.set_xlim(left=0)
    drawn = [*levels.values(), *(value for _, values in curves.values() for value in values)]
    axes.set_ylim(bottom=min(0, *drawn), top=max(1, 1.08 * max(drawn)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return save_figure(figure, out)
