"""Options that several commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.options import option
from rllib_tag.experiment.pretrained import pretrained_teams
from rllib_tag.files import check_files

Checkpoint = Annotated[
    str,
    typer.Argument(
        help="RLlib checkpoint, exported weights, or the folder of a trial or of an experiment with one trial."
    ),
]
Team = Annotated[
    str,
    typer.Argument(
        help="RLlib checkpoint, exported weights, the folder of a trial or of an experiment with one trial, or a team "
        f"that ships with rllib_tag: {', '.join(pretrained_teams())}."
    ),
]
Episodes = Annotated[int, typer.Option("--episodes", help="Number of seeded episodes to play.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first episode; the others count up from it.")]
Stochastic = Annotated[
    bool, typer.Option("--stochastic", help="Sample actions instead of taking the most likely ones.")
]
Baselines = Annotated[
    list[str] | None,
    typer.Option("--baseline", help="Also play this baseline: random, class_b_chases or all_chase; may be repeated."),
]
Yardsticks = Annotated[list[str] | None, typer.Option("--yardstick", hidden=True)]  # the old name of --baseline


@dataclasses.dataclass(frozen=True)
class PlayOptions:
    """What may be changed in the game against a person; None keeps the value that the team was trained with."""

    num_class_a: int | None = option("--num-class-a", help="Number of class A adversaries. [default: as trained]")
    num_class_b: int | None = option("--num-class-b", help="Number of class B adversaries. [default: as trained]")
    num_obstacles: int | None = option("--num-obstacles", help="Number of landmarks. [default: as trained]")
    comm_range: float | None = option(
        "--comm-range", help="Range of links; 0 cuts all, inf links everybody. [default: as trained]"
    )


@dataclasses.dataclass(frozen=True)
class GameOptions(PlayOptions):
    """What may be changed in the game that a team plays; None keeps the value that it was trained with."""

    num_good: int | None = option("--num-good", help="Number of good agents. [default: as trained]")
    good_policy: str | None = option(
        "--good-policy",
        help="Prey: random, evasive, a folder of exported weights, or, for teams trained against it, learned. "
        "[default: as trained]",
    )


def takes(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, for each parameter that is a dataclass, one option per field of it."""
    given = inspect.signature(command, eval_str=True).parameters
    kinds = {name: each.annotation for name, each in given.items()}
    classes: dict[str, Any] = {name: kind for name, kind in kinds.items() if dataclasses.is_dataclass(kind)}

    @functools.wraps(command)
    def call(**values: Any) -> None:
        for name, kind in classes.items():
            fields = dataclasses.fields(kind)
            values[name] = kind(**{field.name: _value(field, values.pop(field.name)) for field in fields})
        command(**values)

    own = [each.replace(kind=each.KEYWORD_ONLY) for name, each in given.items() if name not in classes]
    options = [parameter for kind in classes.values() for parameter in _parameters(kind)]
    call.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return call


def _parameters(kind: type) -> Iterator[inspect.Parameter]:
    """Yields a dataclass's fields as typer's options."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = str | None if field.metadata["is_json"] else hints[field.name]
        default = typer.Option(field.default, *field.metadata["names"], help=field.metadata["help"])
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _value(field: dataclasses.Field[Any], given: Any) -> Any:
    """Returns an option's value in the form of its field."""
    return json_object(field.metadata["names"][0], given) if given is not None and field.metadata["is_json"] else given


def json_object(name: str, text: str) -> dict[str, Any]:
    """Returns the mapping that an option is given as JSON.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: expected JSON, got {text!r} ({error}). Check its quotes and brackets.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: expected a JSON object, got {text!r}. Write it as in '{{\"key\": 50000}}'.")
    return value


def check_outputs(out: str, names: Iterable[str], is_file: bool = False) -> None:
    """Checks, before the work, that files of these names can be written to a folder, or next to a file.

    Raises:
        ConfigError: If not.
    """
    from rllib_tag.places import check_output  # slow to import

    if is_file and os.path.basename(out) in ("", ".", ".."):
        raise ConfigError(f"--out: expected a file, got {out!r}. Name one.")
    check_output(out, is_file)
    check_files(Path(out).parent if is_file else out, names)
