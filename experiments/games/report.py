"""Prints what communication is worth in the games besides tag, from the results of `make games`.

python experiments/games/report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from rllib_tag.cli.output import console, run_command
from rllib_tag.errors import ConfigError
from rllib_tag.names import RANDOM, RETURN_TEAM

GAMES = ("speaker_listener", "spread")
ARMS = {"comm": "with communication", "no_comm": "without", "full_observation": "with full observation"}


def returns(out: Path, arm: str, controller: str = "team") -> np.ndarray:
    """Returns the mean return of each training seed of an arm on the evaluation episodes.

    Raises:
        ConfigError: If there are no results of this arm.
    """
    files = sorted((out / arm).glob("seed_*/summary.json"))
    if not files:
        raise ConfigError(f"report: expected results in {out / arm}, found none. Run `make games`.")
    summaries = [json.loads(file.read_text())["summary"] for file in files]
    return np.array([summary[controller][RETURN_TEAM]["mean"] for summary in summaries])


def share_recovered(out: Path, game: str) -> float:
    """Returns the share of the gap from no communication to full observation that communication recovers."""
    comm, no_comm, full = (returns(out, f"{game}_{arm}").mean() for arm in ARMS)
    return float((comm - no_comm) / (full - no_comm))


def rows(out: Path) -> list[tuple[str, str, str]]:
    """Returns the rows of the table: a label, and a cell for each game."""
    table = [(label, *(_cell(returns(out, f"{game}_{arm}")) for game in GAMES)) for arm, label in ARMS.items()]
    table.append(
        ("trained with communication, then cut", *(_cell(returns(out, f"{game}_comm", "cut")) for game in GAMES))
    )
    table.append(("random actions", *(_cell(returns(out, f"{game}_comm", RANDOM)) for game in GAMES)))
    table.append(("share of the gap recovered", *(f"{share_recovered(out, game):.2f}" for game in GAMES)))
    return table


def main(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("experiments/results/games"),
) -> None:
    """Prints, for each game, the mean over seeds, the lowest and the highest, and the share of the gap recovered."""
    table = Table("return of an agent: mean over seeds [lowest, highest]", *GAMES)
    for row in rows(out):
        table.add_row(*row)
    console.print(table)


def _cell(values: np.ndarray) -> str:
    mean, low, high = f"{values.mean():.1f}", f"{values.min():.1f}", f"{values.max():.1f}"
    return mean if low == high else f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
