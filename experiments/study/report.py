"""Draws the study's figures and prints its tables, from the files of its runs alone.

make report
"""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rllib_tag.cli.output import console, run_command
from rllib_tag.names import BASELINES, GAME, INFLUENCE
from rllib_tag.report.conditions import draw_conditions
from rllib_tag.report.figures import save_figure
from rllib_tag.report.heat_map import VALUE, Row, draw_heat_map
from rllib_tag.report.study import (
    Interval,
    Study,
    bootstrap,
    difference,
    draw_bars,
    draw_improvement,
    draw_learning_curves,
    draw_profiles,
    draw_sizes,
    gap_recovered,
    improvement,
    interquartile_mean,
    late_gain,
    ratio,
)

GAMES = {"": "random prey", "_evasive": "evasive prey"}  # by the suffix of the arms' names
TALKING, LOW = ("comm", "far", "links_fail"), "no_comm"
HIGH = {"full_observation": "full observation", "full_comm": "full observation and communication"}
MAIN = {
    "comm": "communication",
    LOW: "no communication",
    **HIGH,
    "far": "communication over any distance",
    "links_fail": "communication in half of the episodes",
}
PARTS = {
    "mean_evasive": "the mean of the messages in place of attention",
    "one_graph_evasive": "one convolution for both classes",
    "one_layer_evasive": "one graph layer in place of two",
    "history_evasive": "a transformer over the last four steps",
    "absolute_frame_evasive": "absolute coordinates",
    "class_encoder_evasive": "an encoder for each class",
    "shared_critic_evasive": "one critic for both classes",
    "local_critic_evasive": "critics that see what actors see",
}
MESSAGE_DIMS = (1, 2, 4, 8, 16)  # numbers per message of the arms comm_N; comm has hidden_dim
HIDDEN_DIM = 64
GENERALIST = "generalist"
CROSSPLAY = "crossplay.csv"
# Teams that also play games other than their own, with their names in titles.
TRANSFERRED = {
    "comm": "trained on 2A + 2B, other games without further training",
    GENERALIST: "trained on a mixture, games that are all in it",
}
# The game of each arm that was trained on it alone: numbers of class A, class B, good agents and landmarks.
NATIVES = {
    "native_3a1b": (3, 1, 1, 2),
    "native_1a3b": (1, 3, 1, 2),
    "native_4a4b": (4, 4, 1, 2),
    "native_2_prey": (2, 2, 2, 2),
    "native_3_prey": (2, 2, 3, 2),
    "native_no_landmarks": (2, 2, 1, 0),
}

Rows = list[tuple[str, ...]]


def print_table(title: str, header: tuple[str, ...], rows: Rows) -> None:
    """Prints a table in Markdown, unless it is empty."""
    if rows:
        lines = ["", f"**{title}**", "", *(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))]
        console.print("\n".join(lines))


def cell(interval: Interval, form: str = "{:.1f}") -> str:
    """Returns a cell: the estimate and the ends of its interval."""
    middle, low, high = map(form.format, interval)
    return f"{middle} [{low}, {high}]"


def estimate(runs: np.ndarray, form: str = "{:.1f}") -> str:
    """Returns a cell: the interquartile mean of runs, (seeds,), and its interval, which a single run does not have."""
    return cell(bootstrap(interquartile_mean, runs), form) if len(runs) > 1 else form.format(runs[0])


def report_game(study: Study, suffix: str, title: str, out: Path) -> list[Path]:
    """Reports the main arms of one kind of prey."""
    labels = {f"{arm}{suffix}": label for arm, label in MAIN.items() if f"{arm}{suffix}" in study.arms}
    first, low = f"comm{suffix}", f"{LOW}{suffix}"
    if first not in labels:
        return []
    levels = {name: float(study.returns(first, name)[:1].mean()) for name in BASELINES}
    scores = study.scores(list(labels))
    name = title.partition(" ")[0]
    drawn = [
        *draw_learning_curves(study, labels, levels, out / f"curves_{name}"),
        *draw_bars(scores, labels, levels, out / f"bars_{name}"),
        *draw_profiles(study, labels, out / f"profiles_{name}"),
    ]
    rows = [(labels[arm], str(len(runs)), estimate(runs), _late_gain(study, arm)) for arm, runs in scores.items()]
    rows += [(BASELINES[name], "", f"{level:.1f}", "") for name, level in levels.items()]
    print_table(
        title, ("adversaries", "seeds", "return per adversary", "last fifth of training minus the fifth before"), rows
    )
    talking = [arm for arm in labels if arm.removesuffix(suffix) in TALKING]
    highs = [arm for arm in labels if arm.removesuffix(suffix) in HIGH]
    rows = []
    if low in labels:
        rows += [
            (
                f"share of the gap to {labels[high]}: {labels[arm]}",
                cell(gap_recovered(scores, arm, low, high), "{:.2f}"),
            )
            for high, arm in product(highs, talking)
        ]
        others = [low, *highs]
        found = improvement(scores, first, others)
        drawn += draw_improvement(found, labels, labels[first], out / f"improvement_{name}")
        rows += [
            (f"probability that a run with {labels[first]} beats one with {labels[arm]}", cell(found[arm], "{:.2f}"))
            for arm in others
        ]
        cut = {arm: study.conditions(arm)["cut"] for arm in talking}
        rows += [
            (f"{labels[arm]}, links cut, minus no communication", cell(difference(cut[arm], scores[low]), "{:+.1f}"))
            for arm in talking
        ]
    print_table(f"{title}, compared", ("question", "answer"), rows)
    for arm in talking:
        conditions = study.conditions(arm)
        drawn += save_figure(draw_conditions(conditions, levels, "return per adversary"), out / f"conditions_{arm}")
        rows = [
            (name, estimate(runs - conditions["team"], "{:+.1f}"))
            for name, runs in conditions.items()
            if name != "team"
        ]
        heading = f"{title}, {labels[arm]}"
        print_table(f"{heading}: channel interventions", ("intervention", "change of the return"), rows)
        rows = [
            (f"{name}: {INFLUENCE[metric][0]}", estimate(runs, INFLUENCE[metric][1]))
            for (name, metric), runs in study.influence(arm).items()
        ]
        print_table(f"{heading}: influence of the other class's messages", ("class and metric", "value"), rows)
    return drawn


def _late_gain(study: Study, arm: str) -> str:
    _, runs = study.curves(arm)
    return cell(late_gain(runs), "{:+.1f}") if runs.shape[1] >= 10 else ""


def report_message_dims(study: Study, suffix: str, title: str, out: Path) -> list[Path]:
    """Reports how much must be said, and what is said."""
    sizes = {f"comm_{size}{suffix}": size for size in MESSAGE_DIMS} | {f"comm{suffix}": HIDDEN_DIM}
    sizes = {arm: size for arm, size in sizes.items() if arm in study.arms}
    most = f"comm{suffix}"
    if most not in sizes:
        return []
    scores = study.scores(list(sizes))
    rows = []
    for arm, size in sizes.items():
        said, runs = study.probes(arm), scores[arm]
        probes = (estimate(said[what, "class_b", "1"], "{:.2f}") for what in ("position", "velocity"))
        share = "" if arm == most else cell(ratio(runs, scores[most]), "{:.2f}")
        rows.append((str(size), str(len(runs)), estimate(runs), share, *probes))
    header = (
        "numbers per message", "seeds", "return", f"over that with {HIDDEN_DIM}", "R² of the prey's position",
        "R² of its velocity",
    )  # fmt: skip
    print_table(f"how much must be said, {title}", header, rows)
    if len(sizes) < 2:
        return []
    return draw_sizes({size: scores[arm] for arm, size in sizes.items()}, out / f"message_dim_{title.split()[0]}")


def report_parts(study: Study, out: Path) -> list[Path]:
    """Reports the network with one of its parts changed."""
    first = "comm_evasive"
    parts = {arm: label for arm, label in ({first: "the network as it is"} | PARTS).items() if arm in study.arms}
    if len(parts) < 2 or first not in parts:
        return []
    scores = study.scores(list(parts))
    rows = [
        (
            parts[arm], str(len(runs)), estimate(runs),
            "" if arm == first else cell(difference(runs, scores[first]), "{:+.1f}"),
        )
        for arm, runs in scores.items()
    ]  # fmt: skip
    print_table("parts of the network, evasive prey", ("with", "seeds", "return", "difference from the first"), rows)
    return draw_bars(scores, parts, {}, out / "bars_parts")


def report_transfer(study: Study, arm: str, team: str, out: Path) -> list[Path]:
    """Reports a team's returns on other games."""
    if arm not in study.arms:
        return []
    grid = study.transfers(arm)
    games: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in grid:
        games.setdefault(tuple(row[key] for key in GAME), {})[row["controller"]] = row
    rows = []
    for native, numbers in NATIVES.items():
        if native in study.arms:
            played = games[tuple(map(str, numbers))]
            there, runs = study.scores([native])[native], played["team"]["runs"]
            compared = (estimate(runs), estimate(there), cell(ratio(runs, there), "{:.2f}"))
            rows.append((_described(numbers), *compared, *_levels(played)))
    header = ("game", "return", "of teams trained on it alone", "ratio", *BASELINES.values())
    print_table(f"{team}: against teams trained on one game", header, rows)
    worlds = [(numbers, played) for numbers, played in games.items() if numbers[:2] == ("2", "2")]
    rows = [(_described(numbers), estimate(played["team"]["runs"]), *_levels(played)) for numbers, played in worlds]
    print_table(f"{team}: 2A + 2B with other prey and landmarks", ("game", "return", *BASELINES.values()), rows)
    return save_figure(draw_heat_map(grid), out / f"transfer_{arm}")


def _described(numbers: tuple[int | str, ...]) -> str:
    a, b, prey, landmarks = numbers
    return f"{a}A + {b}B, {prey} prey, {landmarks} landmarks"


def _levels(played: dict[str, Row]) -> tuple[str, ...]:
    return tuple(f"{played[name][VALUE]:.1f}" for name in BASELINES)


def report_arms(study: Study, title: str) -> None:
    """Reports the return of all arms of a study of its own."""
    scores = study.scores(list(study.arms))
    rows = [(arm.replace("_", " "), str(len(runs)), estimate(runs)) for arm, runs in scores.items()]
    print_table(title, ("arm", "seeds", "return per adversary"), rows)


def crossplay_rows(path: Path) -> Rows:
    """Returns the mean return of each team checkpoint against each prey checkpoint, from what crossplay.py wrote.

    The first number is against prey of other seeds, the one in parentheses against that of the team's own run.
    """
    with path.open(newline="") as file:
        met = list(csv.DictReader(file))

    def mean(rows: list[dict[str, str]]) -> str:
        return f"{np.mean([float(row[VALUE]) for row in rows]):.1f}" if rows else ""

    checkpoints = sorted({int(row["team_steps"]) for row in met})
    scripted = list(dict.fromkeys(row["prey"] for row in met if not row["prey_steps"]))
    table: Rows = [
        ("team", *(f"prey after {steps:,} steps" for steps in checkpoints), *(f"{name} prey" for name in scripted))
    ]
    for steps in checkpoints:
        played = [row for row in met if row["team_steps"] == str(steps)]
        cells = []
        for other in checkpoints:
            rows = [row for row in played if row["prey_steps"] == str(other)]
            own, others = (
                [row for row in rows if (row["prey_seed"] == row["team_seed"]) == is_own] for is_own in (True, False)
            )
            cells.append(f"{mean(others)} ({mean(own)})")
        cells += [mean([row for row in played if row["prey"] == name]) for name in scripted]
        table.append((f"after {steps:,} steps", *cells))
    return table


def main(
    results: Annotated[Path, typer.Argument(help="Folder of the runs.")] = Path("experiments/results/study"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures; without it, figures next to the runs.")
    ] = None,
    tuning: Annotated[Path, typer.Option(help="Folder of the tuning's runs.")] = Path("experiments/results/tuning"),
    api_stacks: Annotated[Path, typer.Option(help="Folder of the runs on each API stack.")] = Path(
        "experiments/results/api_stacks"
    ),
) -> None:
    """Draws figures of the runs that are there, and prints interquartile means with 95 % bootstrap intervals."""
    study, out = Study(results), out or results / "figures"
    drawn: list[Path] = []
    for suffix, title in GAMES.items():
        drawn += report_game(study, suffix, title, out)
    for suffix, title in GAMES.items():
        drawn += report_message_dims(study, suffix, title, out)
    drawn += report_parts(study, out)
    for arm, team in TRANSFERRED.items():
        drawn += report_transfer(study, arm, team, out)
    if (results / CROSSPLAY).exists():
        header, *rows = crossplay_rows(results / CROSSPLAY)
        print_table("prey that learns too: other seeds (own run)", header, rows)
    for folder, title in ((tuning, "tuning, evasive prey"), (api_stacks, "tag_ppo.yaml on each API stack")):
        if folder.exists():
            report_arms(Study(folder), title)
    console.print()
    for path in drawn:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
