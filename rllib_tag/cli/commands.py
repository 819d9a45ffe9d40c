"""The commands themselves, and `rllib train`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import rllib_tag.cli.options as opt
from rllib_tag.cli.example import example_app
from rllib_tag.cli.live import Results
from rllib_tag.cli.output import console, errors, run_command
from rllib_tag.cli.playing import evaluate, export, play, rollout, transfer
from rllib_tag.cli.report import plot, report, sweep_app
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.options import TrainOptions

if TYPE_CHECKING:
    from rllib_tag.experiment.experiment import Experiment
    from rllib_tag.training.train import TrialEnd

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
for command in (evaluate, transfer, rollout, play, export, plot, report):
    app.command()(command)
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


def _train(specs: dict[str, dict[str, Any]], options: TrainOptions) -> None:
    from rllib_tag.playing.evaluate import baseline_returns
    from rllib_tag.training.train import train

    playable = set()  # the folders of experiments whose checkpoints other commands read

    def start(experiment: Experiment) -> None:
        if experiment.has_team:
            playable.add(experiment.place.location)
        results.begin()
        if experiment.tag_config is not None:
            with console.status("playing baselines"):
                returns = baseline_returns(experiment.tag_config)
            results.compare(experiment.name, returns)

    with Results() as results:
        ends = train(specs, options, results.show, console.print, start)
    trials: dict[str, list[TrialEnd]] = {}
    for end in ends:
        _tell_end(end)
        trials.setdefault(end.place.parent.location, []).append(end)
    for location, swept in trials.items():
        best = swept[0] if len(swept) == 1 else _tell_best(location, swept)
        if not best or best.status != "TERMINATED" or not best.is_recorded or best.checkpoint_steps is None:
            continue
        if location in playable:
            console.print(f"next: rllib report {shlex.quote(best.place.location)}")
    statuses = {end.status for end in ends}
    if statuses - {"TERMINATED"}:
        raise typer.Exit(1 if "ERROR" in statuses else 130)


def _tell_end(end: TrialEnd) -> None:
    """Prints how a trial ended, and where its results are."""
    place = end.place.location
    if end.status == "TERMINATED" and not end.is_new:
        console.print(
            f"already finished: {place}; its results are there, and there is nothing to resume. To train for longer, "
            "start a new run from its checkpoint, with --restore and a larger --stop"
        )
    elif end.status == "TERMINATED":
        lost = "; none of Tune's loggers wrote its results, so no plot or table can show them"
        console.print(f"done: {place}{'' if end.is_recorded else lost}")
    elif end.status == "ERROR":
        errors.print(f"error: {place}: {end.error or 'see the folder'}", style="red")
    else:
        kept = (
            "it has no checkpoint yet, so it will start over"
            if end.checkpoint_steps is None
            else f"its last checkpoint is at {end.checkpoint_steps:,} steps"
        )
        console.print(f"interrupted: {place}; continue with --resume and the same options; {kept}")


def _tell_best(location: str, swept: Sequence[TrialEnd]) -> TrialEnd | None:
    """Prints a sweep's trials and where the best one is, and returns it; None if they cannot be compared."""
    from rllib_tag.places import local_copy
    from rllib_tag.report.sweep import IncomparableError, read_sweep, sweep_table

    if not any(end.result and end.is_recorded for end in swept):
        return None
    try:
        with local_copy(location) as folder:
            sweep = read_sweep(folder)
    except IncomparableError as error:  # the trials are done nevertheless
        console.print(f"no table of the trials: {error}")
        return None
    console.print(sweep_table(sweep))
    best = swept[0].place.parent / sweep.rows[0]["trial"]
    kept = best.checkpoints()
    console.print(f"best: {kept[-1] if kept else f'{best.location}, which kept no checkpoint'}")
    config = (best / "params.json").location
    console.print(f"its config: {config}; to see this again: rllib sweep report {shlex.quote(location)}")
    return next((end for end in swept if end.place.location == best.location), None)


def main() -> None:
    """Runs the command."""
    run_command(lambda: app(prog_name="rllib"), _ray_ends)


def _ray_ends() -> bool:
    """Whether the Ray that this process started, if any, ends as well."""
    found = getattr(sys.modules.get("rllib_tag.training.train"), "ray_ends", None)  # it may be half imported
    return found is not None and found()
