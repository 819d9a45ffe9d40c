"""The commands that report: `rllib plot`, `report` and `sweep report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

import rllib_tag.cli.options as opt
from rllib_tag.cli.output import Progress, console, joined
from rllib_tag.cli.playing import restored
from rllib_tag.errors import ConfigError, check_int
from rllib_tag.files import write_files

sweep_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Report on sweeps.")


def plot(
    runs: Annotated[list[str], typer.Argument(help="Folders of trials, or their result.json or progress.csv.")],
    out: Annotated[str, typer.Option("--out", help="Image to write; without a suffix, PNG and SVG.")] = "curve.png",
    levels: Annotated[
        str | None, typer.Option("--levels", help="Folder of an evaluation whose baselines to draw.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A label for each run. [default: the folder's name]")
    ] = None,
) -> None:
    """Draw learning curves: return of an agent of the team over environment steps, of runs of one game."""
    from rllib_tag.places import local_copy
    from rllib_tag.report.curve import draw_curves, read_curve, read_levels
    from rllib_tag.report.figures import image_paths, save_figure

    opt.check_outputs(out, [path.name for path in image_paths(out)], is_file=True)
    if label and len(label) != len(runs):
        raise ConfigError(f"--label: expected one for each of the {len(runs)} runs, got {len(label)}. Give all.")
    names = label or [Path(run).name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"--label: expected different labels, got {', '.join(names)}. Give each run its own.")
    curves, drawn = {}, None
    for name, run in zip(names, runs, strict=True):
        with local_copy(run) as folder:
            curves[name] = read_curve(folder)
    if levels is not None:
        with local_copy(levels) as folder:
            drawn = read_levels(folder)
    console.print(f"wrote {joined(save_figure(draw_curves(curves, drawn), out))}")


def report(
    run: Annotated[str, typer.Argument(help="Folder of a trial, or of an experiment with one trial.")],
    episodes: opt.Episodes = 128,
    seed: opt.Seed = 1_000_000,
    out: Annotated[str, typer.Option("--out", help="HTML page to write.")] = "report.html",
) -> None:
    """Write one HTML page about a run: its curve, an evaluation with baselines and channel interventions, a video.

    It plays the newest checkpoint. The page opens from disk and needs no network.
    """
    from rllib_tag.places import is_uri, local_copy
    from rllib_tag.playing.channel import read_conditions
    from rllib_tag.playing.controllers import baselines_of
    from rllib_tag.playing.evaluate import evaluate
    from rllib_tag.playing.rollout import record_episode
    from rllib_tag.plugin.env_config import TagEnvConfig
    from rllib_tag.report.run import read_run, run_page

    page = Path(out)
    if page.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out: expected an HTML page, got {out}. Name it {page.stem or 'report'}.html.")
    opt.check_outputs(out, [page.name], is_file=True)
    check_int("--episodes", episodes, 2)  # shuffled messages are another episode's
    with local_copy(run) as folder:
        found = read_run(folder)  # what is wrong with it is said before an evaluation
    team = restored(run)
    config = team.env_config_for()
    baselines, conditions = baselines_of(config), ["all"] if team.listens else []
    controllers = 1 + len(baselines) + len(read_conditions(conditions, config))
    with Progress("episodes", episodes * controllers) as advance:
        played = evaluate(
            team, episodes=episodes, first_seed=seed, baselines=baselines, messages=conditions, on_episodes=advance
        )
    is_tag = isinstance(config, TagEnvConfig)
    episode = record_episode(team, seed, dict(team.env_config)) if is_tag else None
    source = str(team.source)
    if not is_uri(run):  # named as the run was
        source = os.path.join(run, Path(source).relative_to(Path(run).absolute()))
    text = run_page(run, found, source, played.as_json(), episode)
    console.print(f"wrote {joined(write_files(page.parent, {page.name: text}))}")


@sweep_app.command("report")
def sweep_report(
    experiment: Annotated[str, typer.Argument(help="Folder of a finished or interrupted experiment.")],
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="Metric to compare by. [default: the experiment's, or the team's return]"),
    ] = None,
    mode: Annotated[
        Literal["max", "min"] | None,
        typer.Option("--mode", help="Which value is best. [default: the experiment's, or max]"),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", help="CSV to write; the plot (PNG and SVG) goes next to it.")
    ] = "sweep.csv",
) -> None:
    """Print a sweep's best trials, write one row per trial, and plot the metric over what was varied.

    Trials are compared by the metric's mean over each trial's last 5 iterations that have it.
    """
    from rllib_tag.files import as_csv
    from rllib_tag.places import local_copy
    from rllib_tag.report.figures import IMAGES, image
    from rllib_tag.report.sweep import draw_sweep, read_sweep, sweep_table

    table = Path(out)
    if table.suffix in IMAGES:
        raise ConfigError(f"--out: expected a CSV, got {out}. Name {table.stem}.csv; the plot goes next to it.")
    plots = {suffix: table.name.removesuffix(".csv") + suffix for suffix in IMAGES}
    opt.check_outputs(out, [table.name, *plots.values()], is_file=True)
    with local_copy(experiment) as folder:
        sweep = read_sweep(folder, metric, mode)
    figure = draw_sweep(sweep) if sweep.varied else None
    images = {name: image(figure, suffix) if figure else None for suffix, name in plots.items()}
    written = write_files(table.parent, {table.name: as_csv(sweep.rows), **images})
    console.print(sweep_table(sweep))
    console.print(f"wrote {joined(written)}")
