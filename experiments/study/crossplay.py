"""Plays teams and prey that learned together against those of other seeds and of other checkpoints.

In self-play, a team's return says as much about its prey as about itself. Here each team meets each prey.

python experiments/study/crossplay.py
"""

from __future__ import annotations

import re
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_tag import evaluate, restore
from rllib_tag.cli.output import console, run_command
from rllib_tag.errors import ConfigError
from rllib_tag.files import write_csv
from rllib_tag.names import RETURN_ADVERSARY
from rllib_tag.playing.restore import TrainedTeam, export

SCRIPTED = ("random", "evasive")  # prey that does not learn
LEARNED = "learned"


def teams_of(work: Path, arm: str) -> list[TrainedTeam]:
    """Returns all teams of an arm's runs: each seed's, at each checkpoint.

    Raises:
        ConfigError: If there is none.
    """
    folders = sorted(folder for folder in work.glob(f"{arm}_*") if re.fullmatch(rf"{arm}_\d+", folder.name))
    teams = [restore(checkpoint) for folder in folders for checkpoint in sorted(folder.glob("*/checkpoint_*"))]
    if not teams:
        raise ConfigError(f"crossplay: expected checkpoints in {work}/{arm}_SEED, found none. Train the arm first.")
    return teams


def play_all(teams: list[TrainedTeam], episodes: int) -> list[dict[str, Any]]:
    """Returns a row for each team and prey, with the mean and standard error of the return.

    `prey` is the name of prey that does not learn, or `learned`; only the latter has a seed and steps.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prey = [(name, {"prey": name}) for name in SCRIPTED]
        for team in teams:
            weights = export(team.source, Path(folder, f"{team.seed}_{team.env_steps}"))
            prey.append((str(weights), {"prey": LEARNED, "prey_seed": team.seed, "prey_steps": team.env_steps}))
        for team, (policy, described) in product(teams, prey):
            found = evaluate(team, episodes=episodes, good_policy=policy).summary()["team"][RETURN_ADVERSARY]
            rows.append(
                {
                    "team_seed": team.seed, "team_steps": team.env_steps, "prey_seed": None, "prey_steps": None,
                    **described,
                    f"{RETURN_ADVERSARY}_mean": found["mean"], f"{RETURN_ADVERSARY}_se": found["standard_error"],
                }
            )  # fmt: skip
    return rows


def main(
    work: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("out/study"),
    arm: Annotated[str, typer.Option(help="The arm with prey that learns.")] = "selfplay",
    out: Annotated[Path, typer.Option(help="CSV to write.")] = Path("experiments/results/study/crossplay.csv"),
    episodes: Annotated[int, typer.Option(help="Episodes of each pair, with seeds from 1,000,000.")] = 128,
) -> None:
    """Plays every team against every prey."""
    rows = play_all(teams_of(work, arm), episodes)
    write_csv(out, rows)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
