"""Learning curves from trials' results."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rllib_tag.errors import ConfigError, reason_of
from rllib_tag.names import BASELINES, TAG, team_return
from rllib_tag.report.figures import draw_levels, legend_height, line_style, new_figure
from rllib_tag.report.table import read_summary
from rllib_tag.results import EPISODE_REWARD, RETURN, TEAM_RETURN, env_steps, read_results, result_files, with_number

OTHER_GAME = "a game other than tag"  # of results without the trial's params.json
LONG_LABEL = 40  # characters, beyond which a legend has one column


@dataclasses.dataclass(frozen=True)
class Curve:
    """A trial's returns in training.

    Args:
        steps: Environment steps.
        returns: The mean return of an agent of the team, for each of these.
        game: `tag`, or the import path of the game; `OTHER_GAME` if it is not known. Default: `tag`.
    """

    steps: Sequence[int]
    returns: Sequence[float]
    game: str = TAG


@dataclasses.dataclass(frozen=True)
class Levels:
    """The returns of an evaluation's baselines.

    Args:
        returns: The mean return of an agent of the team, by baseline.
        game: `tag`, or the import path of the game. Default: `tag`.
    """

    returns: Mapping[str, float] = dataclasses.field(default_factory=dict)
    game: str = TAG


def read_curve(path: str | os.PathLike[str]) -> Curve:
    """Reads a trial's environment steps, mean returns and game.

    Args:
        path: A `result.json` or `progress.csv`, a trial's folder, or an experiment's folder with one trial.

    Raises:
        ConfigError: If there is no such file, more than one, or no return in it.
    """
    if not os.path.exists(path):
        raise ConfigError(f"curve: expected a trial's folder, got {path}, which does not exist. Correct the path.")
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
            f"curve: expected steps and returns in {files[0]}, got: {reason_of(error)}. Give another file."
        ) from error
    if not points:
        raise ConfigError(
            f"curve: expected returns under {metric} in {files[0]}, found none: "
            + ("train with rllib_tag.TagCallbacks." if ended else "no episode has ended. Train for longer.")
        )
    game = TAG if metric == RETURN else _game_beside(files[0])
    return Curve(steps, [point[metric] for point in points], game)


def _game_beside(file: Path) -> str:
    """Returns the game that the config beside a file of results names."""
    try:
        return str(json.loads((file.parent / "params.json").read_text())["env_config"]["game"])
    except (OSError, ValueError, KeyError, TypeError):
        return OTHER_GAME


def read_levels(path: str | os.PathLike[str]) -> Levels:
    """Reads the returns of an evaluation's baselines.

    Args:
        path: The `summary.json` of `rllib evaluate`, or the folder that holds it.

    Raises:
        ConfigError: If it is missing or something else, or has no baselines.
    """
    content = read_summary(path)
    levels = levels_of(content)
    if not levels.returns:
        raise ConfigError(
            f"--levels: expected an evaluation with baselines, got {path}, which has only "
            f"{', '.join(content['summary'])}. Evaluate with --baseline, or leave --levels out."
        )
    return levels


def levels_of(content: Mapping[str, Any]) -> Levels:
    """Returns the returns of the baselines, if there are any, in the content of an evaluation's `summary.json`."""
    found = {name: metrics for name, metrics in content["summary"].items() if name in BASELINES}
    returns = {name: metrics[team_return(metrics)]["mean"] for name, metrics in found.items()}
    return Levels(returns, content.get("env_config", {}).get("game", TAG))


def draw_curves(curves: Mapping[str, Curve], levels: Levels | None) -> Figure:
    """Draws learning curves, with horizontal levels to compare them with.

    Args:
        curves: The curves by label.
        levels: Returns to draw as dashed lines; None draws none.

    Raises:
        ConfigError: If they are of different games.
    """
    games = {name: curve.game for name, curve in curves.items()} | ({"--levels": levels.game} if levels else {})
    known = set(games.values()) - {OTHER_GAME}
    if len(known) > 1 or (known == {TAG} and OTHER_GAME in games.values()):
        told = ", ".join(f"{name} of {game}" for name, game in games.items())
        raise ConfigError(f"plot: expected results of one game, got {told}. Draw one figure for each game.")
    columns = 1 if max(map(len, curves)) > LONG_LABEL else 2
    figure, axes = new_figure((7, 4 + legend_height(len(curves), columns)))
    for i, (label, curve) in enumerate(curves.items()):
        axes.plot([step / 1000 for step in curve.steps], curve.returns, linewidth=2, label=label, **line_style(i))
    returns = levels.returns if levels else {}
    draw_levels(axes, returns)
    axes.set_xlabel("environment steps (thousands)")
    is_tag = set(games.values()) == {TAG}
    of_whom, whose = ("adversary", "MPE's") if is_tag else ("agent of the team", "the game's")
    axes.set_ylabel(f"return per {of_whom}\n({whose} own reward, training policy)")
    axes.set_xlim(left=0)
    drawn = [0.0, *returns.values(), *(value for curve in curves.values() for value in curve.returns)]
    low, high = min(drawn), max(drawn)
    margin = 0.08 * (high - low or 1)
    axes.set_ylim(bottom=low - margin if low < 0 else 0, top=high + margin)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False)
    return figure
