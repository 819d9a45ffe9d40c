"""One HTML page about a run: its curve, what its team achieves, a video and its configuration."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from matplotlib.figure import Figure
from rich.table import Table

from rllib_tag.errors import ConfigError, reason_of
from rllib_tag.names import RETURN_ADVERSARY, team_return
from rllib_tag.report.conditions import draw_conditions
from rllib_tag.report.curve import Curve, draw_curves, levels_of, read_curve
from rllib_tag.report.figures import image
from rllib_tag.report.replay import replay_page
from rllib_tag.report.table import conditions_table, influence_table, summary_table
from rllib_tag.results import SECONDS, Result, env_steps, read_results, result_files

# Jinja escapes whatever a file or a name contains.
PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("rllib_tag.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
)
CLASS = re.compile(r"\"<class '([\w.]+)'>\"")  # what Tune makes of a class


@dataclasses.dataclass(frozen=True)
class Run:
    """What training wrote about a trial.

    Args:
        curve: Its returns.
        last: Its last result.
        config: Its config as YAML.
    """

    curve: Curve
    last: Result
    config: str


def read_run(folder: Path) -> Run:
    """Reads a trial's results and config.

    Args:
        folder: The folder of the trial, or of an experiment with one trial.

    Raises:
        ConfigError: If they cannot be read, or if there is more than one trial.
    """
    curve = read_curve(folder)
    (results,) = result_files(folder)
    return Run(curve, read_results(results)[-1], _config(results.parent))


def run_page(
    name: str, run: Run, checkpoint: str, evaluation: Mapping[str, Any], episode: dict[str, Any] | None
) -> str:
    """Returns a page that needs nothing but a browser, neither other files nor a network.

    Args:
        name: What the page calls the run.
        run: What training wrote.
        checkpoint: The path or URI of the checkpoint that played.
        evaluation: The content of an evaluation's `summary.json`.
        episode: What `record_episode` returns; None if there is none.
    """
    content, listens = dict(evaluation), bool(evaluation["conditions"])
    levels = levels_of(content)
    means = {one: np.array([metrics[team_return(metrics)]["mean"]]) for one, metrics in content["summary"].items()}
    whose = "adversary" if RETURN_ADVERSARY in content["summary"]["team"] else "agent"
    return PAGES.get_template("run.html").render(
        name=name,
        rows=_rows,
        facts=_facts(run.last, checkpoint, content),
        curve=_address(draw_curves({"training": run.curve}, levels)),
        summary=summary_table(content),
        conditions=conditions_table(content) if listens else None,
        conditions_image=_address(draw_conditions(means, levels.returns, f"return per {whose}")) if listens else None,
        influence=influence_table(content) if listens else None,
        video=episode and replay_page(episode),
        seed=episode and episode["seed"],
        config=run.config,
        commands=_commands(checkpoint, content, episode),
    )


def _rows(table: Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.cells for column in table.columns), strict=True)


def _address(figure: Figure) -> str:
    """Returns a figure as an address that holds all of it."""
    return "data:image/svg+xml;base64," + base64.b64encode(image(figure, ".svg")).decode()


def _facts(last: Result, checkpoint: str, content: Mapping[str, Any]) -> dict[str, str]:
    """Returns what was trained, how and how long, and what played, in words."""
    steps, seconds, training = env_steps(last), last[SECONDS], content["training"]["team"]
    versions = content["versions"]
    return {
        "checkpoint played": f"{checkpoint}, after {training['env_steps']:,} environment steps",
        "seed of training": "none" if training["seed"] is None else str(training["seed"]),
        "run so far": f"{steps:,} environment steps in {seconds:,.0f} s, {steps / seconds:,.0f} steps a second",
        "last result": last["date"].replace("_", " "),
        "played with": ", ".join(f"{package} {versions[package]}" for package in ("rllib_tag", "ray", "torch")),
    }


def _config(trial: Path) -> str:
    """Returns the trial's config as YAML, with classes by import path, as experiment files have them."""
    file = trial / "params.json"
    try:
        config = json.loads(CLASS.sub(r'"\1"', file.read_text()))
        return yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=110)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"report: expected the trial's config in {file}, got: {reason_of(error)}. Give the folder that training "
            "wrote."
        ) from error


def _commands(checkpoint: str, content: Mapping[str, Any], episode: Mapping[str, Any] | None) -> list[str]:
    """Returns the commands that play the same episodes again."""
    seed, options = content["first_seed"], [f"--baseline {one}" for one in levels_of(content).returns]
    options += ["--messages all"] if content["conditions"] else []
    played = shlex.quote(checkpoint)
    commands = [f"rllib evaluate {played} --episodes {content['episodes']} --seed {seed} {' '.join(options)}"]
    return commands + ([f"rllib rollout {played} --seed {episode['seed']} --video html"] if episode else [])
