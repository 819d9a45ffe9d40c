"""The `rllib` command. It only parses; `training`, `playing` and `report` do the work."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from rllib_tag import cli_options as opt
from rllib_tag.cli_example import example_app
from rllib_tag.cli_output import Progress, Results, console, errors, print_best, run_command
from rllib_tag.errors import ConfigError, check_choice
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.experiment.pretrained import DEFAULT_TEAM
from rllib_tag.files import check_files, write_files

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Train, evaluate and roll out heterogeneous agents that learn to communicate.")  # fmt: skip


class _TrainGroup(TyperGroup):
    """`rllib train`, which says so where only the word `file` is missing."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the subcommand that the arguments name."""
        name = args[0]
        if name not in self.commands and (name.endswith((".yaml", ".yml")) or os.path.isfile(name)):
            raise ConfigError(f"train: expected `train file {name}`, got `train {name}`. Add the word `file`.")
        return super().resolve_command(ctx, args)


train_app = typer.Typer(cls=_TrainGroup, invoke_without_command=True, no_args_is_help=True, rich_markup_mode=None,
                        help="Train from an experiment file (`train file F.yaml`), or from options alone.")  # fmt: skip
app.add_typer(train_app, name="train")
sweep_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Report on sweeps.")
app.add_typer(sweep_app, name="sweep")
app.add_typer(example_app, name="example")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from rllib_tag import __version__

        console.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del version


@train_app.callback()
@opt.takes
def train_options(
    context: typer.Context,
    options: TrainOptions,
    algo: Annotated[str | None, typer.Option("--algo", "--run", "-a", "-r", help="RLlib algorithm, e.g. PPO.")] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Environment, e.g. rllib_tag.TagEnv.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="RLlib config as JSON.")] = "{}",
) -> None:
    """Train from options alone, or from a file with `train file`."""
    if context.invoked_subcommand is not None:
        if options != TrainOptions() or algo or env or config != "{}":
            raise ConfigError("train: expected the options after `file F.yaml`, got some before it. Move them.")
        return
    if not algo or not env:
        raise ConfigError(
            "train: expected --algo and --env, or `train file F.yaml`, got at most one of them. Give both, or a file."
        )
    spec = {"run": algo, "env": env, "config": opt.json_object("--config", config)}
    _train({options.experiment_name or "default": spec}, options)


@train_app.command("file")
@opt.takes
def train_file(
    config_file: Annotated[str, typer.Argument(help="Experiment file (YAML).")], options: TrainOptions
) -> None:
    """Train every experiment of a YAML file. Options override the file."""
    from rllib_tag.experiment.spec import load_experiments

    _train(load_experiments(config_file), options)


@app.command()
@opt.takes
def evaluate(
    game: opt.GameOptions,
    checkpoint: opt.Team = DEFAULT_TEAM,
    episodes: opt.Episodes = 128,
    seed: opt.Seed = 1_000_000,
    out: Annotated[str, typer.Option("--out", help="Folder for the results (CSV, JSON).")] = "evaluation",
    stochastic: opt.Stochastic = False,
    baseline: opt.Baselines = None,
    yardstick: opt.Yardsticks = None,
    beside: Annotated[
        list[str] | None, typer.Option("--beside", help="Also play another team: NAME=CHECKPOINT; may be repeated.")
    ] = None,
    messages: Annotated[
        list[str] | None,
        typer.Option(
            "--messages",
            help="Also play the team under this channel intervention: cut, swap, shuffle, silence[:NAME], delay:STEPS, "
            "drop:P, range:R, quantize:BITS, or all for a series of them (without quantize, which needs a team with "
            "encoder: shared); may be repeated.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Play seeded episodes with a trained team of any size; print a table, write CSV and JSON."""
    from rllib_tag.playing.channel import read_conditions
    from rllib_tag.playing.evaluate import FILES
    from rllib_tag.playing.evaluate import evaluate as run
    from rllib_tag.report.table import conditions_table, influence_table, read_summary, summary_table

    overrides = _overrides(game)
    _check_output(out, FILES)
    baselines = (baseline or []) + (yardstick or [])
    others, conditions = _named("--beside", beside or []), messages or []
    team = _restore(checkpoint, overrides)
    played = read_conditions(conditions, team.env_config_for(**overrides))
    with Progress("episodes", episodes * (1 + len(baselines) + len(others) + len(played))) as advance:
        result = run(
            team, episodes=episodes, first_seed=seed, deterministic=not stochastic, baselines=baselines,
            beside=others, messages=conditions, on_episodes=advance, **overrides,
        )  # fmt: skip
    paths = result.write(out)
    content = read_summary(out)
    console.print(summary_table(content))
    if conditions:
        console.print(conditions_table(content))
        console.print(influence_table(content))
    console.print(f"wrote {_join(paths)}")


@app.command()
def transfer(
    checkpoint: opt.Team = DEFAULT_TEAM,
    episodes: opt.Episodes = 128,
    seed: opt.Seed = 1_000_000,
    out: Annotated[str, typer.Option("--out", help="Folder for transfer.csv and the heat map.")] = "transfer",
    native: Annotated[
        list[str] | None,
        typer.Option(
            "--native", help="Also play this team on the game of the grid that it was trained on; may be repeated."
        ),
    ] = None,
    largest: Annotated[int, typer.Option("--largest", help="Maximum number of members per class.")] = 6,
) -> None:
    """Play a trained team, without further training, with 0 to 6 members per class; write a CSV and a heat map."""
    from rllib_tag.files import as_csv
    from rllib_tag.playing.transfer import transfer as run
    from rllib_tag.playing.transfer import transfer_games
    from rllib_tag.report.figures import IMAGES, image
    from rllib_tag.report.heat_map import draw_heat_map

    plots = {f"transfer{suffix}": suffix for suffix in IMAGES}
    _check_output(out, ["transfer.csv", *plots])
    team = _restore(checkpoint)
    with Progress("games", len(transfer_games(team.tag_config_for("transfer"), largest))) as advance:
        rows = run(
            team, natives=native or [], largest=largest, episodes=episodes, first_seed=seed,
            on_game=lambda _: advance(1),
        )  # fmt: skip
    drawn = draw_heat_map(rows)
    images = {name: image(drawn, suffix) for name, suffix in plots.items()}
    console.print(f"wrote {_join(write_files(out, {'transfer.csv': as_csv(rows), **images}))}")


@app.command()
@opt.takes
def rollout(
    game: opt.GameOptions,
    checkpoint: opt.Team = DEFAULT_TEAM,
    episodes: opt.Episodes = 1,
    seed: opt.Seed = 1_000_000,
    out: Annotated[str, typer.Option("--out", help="Folder for the recorded episodes.")] = "rollout",
    video: Annotated[
        list[str] | None,
        typer.Option("--video", help="gif, mp4, html (a page with a slider) or none; may be repeated. [default: gif]"),
    ] = None,
    with_messages: Annotated[
        bool, typer.Option("--with-messages", help="Also write the messages sent, of a team with encoder: shared.")
    ] = False,
) -> None:  # fmt: skip
    """Record episodes step by step, as JSON and as video with the communication graph."""
    from rllib_tag.playing.rollout import rollout as run
    from rllib_tag.report.replay import replay_page
    from rllib_tag.report.video import FORMATS
    from rllib_tag.report.video import video as draw

    kinds: dict[str, Any] = {**{form: partial(draw, form=form) for form in FORMATS}, "html": replay_page}
    wanted = video or ["gif"]
    for name in wanted:
        check_choice("--video", name, [*kinds, "none"])
    overrides = _overrides(game)
    suffixes = ("json", "messages.npz", *kinds)
    _check_output(out, [f"episode_{seed + i}.{suffix}" for i in range(episodes) for suffix in suffixes])
    run(
        _restore(checkpoint, overrides), out, episodes=episodes, first_seed=seed,
        views={kind: view if kind in wanted else None for kind, view in kinds.items()},
        on_episode=lambda written: console.print(f"wrote {_join(written)}"), messages=with_messages, **overrides,
    )  # fmt: skip


@app.command()
@opt.takes
def play(
    game: opt.PlayOptions,
    checkpoint: opt.Team = DEFAULT_TEAM,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first round; the others count up from it.")] = 0,
    port: Annotated[int, typer.Option("--port", help="Port of the page, of at least 1024; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Be the prey: move it with the arrow keys, in a browser, against a trained team that plays live."""
    from rllib_tag.playing.live_game import Settings
    from rllib_tag.playing.play import play as run
    from rllib_tag.report.replay import play_page

    team = _restore(checkpoint)
    changes = {key: value for key, value in dataclasses.asdict(game).items() if value is not None}
    settings = Settings.as_trained(team.env_config, **changes)

    def said(url: str) -> None:
        console.print(f"Ctrl-C, or closing the page, ends it; play at {url}")

    run(play_page(), team, settings, seed, port, browser, said)


@app.command()
def export(
    checkpoint: opt.Checkpoint,
    out: Annotated[
        str, typer.Option("--out", help="Folder to write: a new one, or an earlier export to replace.")
    ] = "exported",
) -> None:
    """Write each policy's weights as safetensors, with a JSON manifest; they open without unpickling anything."""
    from rllib_tag.places import check_output
    from rllib_tag.playing.restore import export as run

    check_output(out, is_file=True)
    console.print(f"wrote {run(checkpoint, out)}")


@app.command()
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
    from rllib_tag.report.figures import image_paths

    _check_output(out, [path.name for path in image_paths(out)], is_file=True)
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
    console.print(f"wrote {_join(draw_curves(curves, drawn, out))}")


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
    _check_output(out, [table.name, *plots.values()], is_file=True)
    with local_copy(experiment) as folder:
        sweep = read_sweep(folder, metric, mode)
    figure = draw_sweep(sweep) if sweep.varied else None
    images = {name: image(figure, suffix) if figure else None for suffix, name in plots.items()}
    written = write_files(table.parent, {table.name: as_csv(sweep.rows), **images})
    console.print(sweep_table(sweep))
    console.print(f"wrote {_join(written)}")


def _check_output(out: str, names: Iterable[str], is_file: bool = False) -> None:
    """Checks, before the work, that files of these names can be written to a folder, or next to a file.

    Raises:
        ConfigError: If not.
    """
    from rllib_tag.places import check_output

    if is_file and os.path.basename(out) in ("", ".", ".."):
        raise ConfigError(f"--out: expected a file, got {out!r}. Name one.")
    check_output(out, is_file)
    check_files(Path(out).parent if is_file else out, names)


def _overrides(game: opt.GameOptions) -> dict[str, Any]:
    """Returns the options of the game that a command was given, as keys of `TagEnv`."""
    from rllib_tag.playing.evaluate import parse_overrides

    return parse_overrides(**dataclasses.asdict(game))


def _restore(checkpoint: str, overrides: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Returns a team, and says which one it is and, if options change its game, what it plays."""
    import torch

    from rllib_tag.playing.restore import game_in_words, restore

    # Networks this small gain nothing from more threads, which wait for each other when another process has a core.
    torch.set_num_threads(1)
    team = restore(checkpoint)
    team.check_options(overrides)
    console.print(f"{checkpoint}: trained on {team.training}")
    if overrides:
        other = "".join(
            f", {key} {value:g}" for key, value in overrides.items() if key in ("num_obstacles", "comm_range")
        )
        console.print(f"plays {game_in_words({**team.env_config, **overrides})}{other}")
    return team


def _train(specs: dict[str, dict[str, Any]], options: TrainOptions) -> None:
    from rllib_tag.places import local_copy
    from rllib_tag.report.sweep import IncomparableError, read_sweep
    from rllib_tag.training.train import train

    with Results() as results:
        ends = train(specs, options, results.show, results.begin)
    has_failed = is_interrupted = False
    for end in ends:
        if end.status == "TERMINATED" and not end.is_new:
            console.print(
                f"already finished: {end.place.location}; its results are there, and there is nothing to resume. To "
                "train for longer, start a new run from its checkpoint, with --restore and a larger --stop"
            )
        elif end.status == "TERMINATED":
            told = (
                ""
                if end.is_recorded
                else "; none of Tune's loggers wrote its results, so no plot or table can show them"
            )
            console.print(f"done: {end.place.location}{told}")
        elif end.status == "ERROR":
            has_failed = True
            errors.print(f"error: {end.place.location}: {end.error or 'see the folder'}", style="red")
        else:
            is_interrupted = True
            kept = (
                "it has no checkpoint yet, so it will start over"
                if end.checkpoint_steps is None
                else f"its last checkpoint is at {end.checkpoint_steps:,} steps"
            )
            console.print(f"interrupted: {end.place.location}; continue with --resume and the same options; {kept}")
    trials: dict[str, list[Any]] = {}
    for end in ends:
        trials.setdefault(end.place.parent.location, []).append(end)
    for location, swept in trials.items():
        if len(swept) > 1 and any(end.result and end.is_recorded for end in swept):
            try:
                with local_copy(location) as folder:
                    sweep = read_sweep(folder)
            except IncomparableError as error:  # the trials are done nevertheless
                console.print(f"no table of the trials: {error}")
                continue
            print_best(sweep, swept[0].place.parent / sweep.rows[0]["trial"])
    if has_failed or is_interrupted:
        raise typer.Exit(1 if has_failed else 130)


def _join(paths: Sequence[Path]) -> str:
    *others, last = map(str, paths)
    return f"{', '.join(others)} and {last}" if others else last


def _named(option: str, given: list[str]) -> dict[str, str]:
    """Returns NAME=VALUE options as a mapping."""
    out = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in out:
            raise ConfigError(
                f"{option}: expected NAME=CHECKPOINT, each name once, got {text!r}. "
                "Give each team a name of its own, such as old=out/old."
            )
        out[name] = value
    return out


def main() -> None:
    """Runs the command."""
    run_command(lambda: app(prog_name="rllib"), _ray_ends)


def _ray_ends() -> bool:
    """Whether the Ray that this process started, if any, ends as well."""
    found = getattr(sys.modules.get("rllib_tag.training.train"), "ray_ends", None)  # it may be half imported
    return found is not None and found()
