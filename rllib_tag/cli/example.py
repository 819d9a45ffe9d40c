"""`rllib example`: the shipped experiments, listed, printed and run by name."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from rllib_tag.cli.output import console

example_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, print and run shipped experiments.")
Name = Annotated[str, typer.Argument(help="An example's name, from `rllib example list`.")]


@example_app.command("list")
def list_examples(
    pattern: Annotated[
        str | None, typer.Option("--filter", "-f", help="Show only names that contain this text.")
    ] = None,
) -> None:
    """List the shipped experiments, with the purpose of each."""
    from rllib_tag.experiment.examples import describe, example_files

    table = Table("name", "purpose")
    for name, file in example_files().items():
        if pattern is None or pattern.lower() in name.lower():
            table.add_row(name, describe(file))
    console.print(table)


@example_app.command("get")
def get_example(name: Name) -> None:
    """Print an experiment file, to save and change it."""
    from rllib_tag.experiment.examples import example_file

    typer.echo(example_file(name).read_text(), nl=False)


@example_app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_example(context: typer.Context, name: Name) -> None:
    """Train a shipped experiment; takes all options of `rllib train file`, such as --stop and --storage-path."""
    from rllib_tag.experiment.examples import example_file

    arguments = ["train", "file", str(example_file(name)), *context.args]
    status = context.find_root().command.main(arguments, prog_name="rllib", standalone_mode=False)
    raise typer.Exit(status or 0)
