"""Plays teams and prey that learned together against those of other seeds and ages.

In self-play, a team's return says as much about its prey as about itself. Here each team of each age meets each prey.

python experiments/study/crossplay.py
"""

from __future__ import annotations

import re
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from rllib_tag import evaluate, restore
from rllib_tag.cli_output import console, run_command
from rllib_tag.errors import ConfigError
from rllib_tag.files import write_csv
from rllib_tag.names import RETURN_ADVERSARY
from rllib_tag.playing.restore import TrainedTeam, export

SCRIPTED = ("random", "evasive")  # prey that does not learn


def teams_of(work: Path, arm: str) -> list[TrainedTeam]:
    """Returns all teams of an arm's runs: each seed's, of each age.

    Raises:
        ConfigError: If there is none.
    """
    folders = sorted(folder for folder in work.glob(f"{arm}_*") if re.fullmatch(rf"{arm}_\d+", folder.name))
    teams = [restore(checkpoint) for folder in folders for checkpoint in sorted(folder.glob("*/checkpoint_*"))]
    if not teams:
        raise ConfigError(f"crossplay: expected checkpoints in {work}/{arm}_SEED, found none. Train the arm first.")
    return teams


def play_all(teams: list[TrainedTeam], episodes: int) -> list[dict[str, Any]]:
    """Returns a row for each team and prey: their seeds and steps, and the mean and standard error of the return."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prey: dict[tuple[Any, Any], str] = dict.fromkeys(((name, None) for name in SCRIPTED), "")
        for team in teams:
            prey[team.seed, team.env_steps] = str(export(team.source, Path(folder, f"{team.seed}_{team.env_steps}")))
        for team, ((seed, steps), weights) in product(teams, prey.items()):
            found = evaluate(team, episodes=episodes, good_policy=weights or seed).summary()["team"][RETURN_ADVERSARY]
            rows.append(
                {
                    "team_seed": team.seed, "team_steps": team.env_steps, "prey_seed": seed, "prey_steps": steps,
                    f"{RETURN_ADVERSARY}_mean": found["mean"], f"{RETURN_ADVERSARY}_se": found["standard_error"],
                }
            )  # fmt: skip
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Returns the mean return of teams by age against prey by age, of other seeds and of the team's own."""
    ages = sorted({row["team_steps"] for row in rows})
    table = Table("team", *(f"prey of {age:,} steps (its own)" for age in ages), *(f"{name} prey" for name in SCRIPTED))
    for age in ages:
        old = [row for row in rows if row["team_steps"] == age]
        cells = []
        for other in ages:
            met = [row for row in old if row["prey_steps"] == other]
            away = [row for row in met if row["prey_seed"] != row["team_seed"]]
            cells.append(f"{_mean(away)} ({_mean([row for row in met if row['prey_seed'] == row['team_seed']])})")
        cells += [_mean([row for row in old if row["prey_seed"] == name]) for name in SCRIPTED]
        table.add_row(f"{age:,} steps", *cells)
    return table


def _mean(rows: list[dict[str, Any]]) -> str:
    return f"{np.mean([row[f'{RETURN_ADVERSARY}_mean'] for row in rows]):.1f}" if rows else ""


def main(
    work: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("out/second"),
    arm: Annotated[str, typer.Option(help="The arm with prey that learns.")] = "selfplay",
    out: Annotated[Path, typer.Option(help="CSV to write.")] = Path("experiments/results/second/crossplay.csv"),
    episodes: Annotated[int, typer.Option(help="Episodes of each pair, with seeds from 1,000,000.")] = 128,
) -> None:
    """Plays every team against every prey, and prints the table by age."""
    rows = play_all(teams_of(work, arm), episodes)
    write_csv(out, rows)
    console.print(table_of(rows))


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
