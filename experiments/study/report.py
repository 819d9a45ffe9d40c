"""Draws the study's figures and prints its tables, from the files of its runs alone.

make report
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from rllib_tag.cli_output import console, run_command
from rllib_tag.names import BASELINES, GAME
from rllib_tag.report.figures import save_figure
from rllib_tag.report.heat_map import VALUE, Row, draw_heat_map
from rllib_tag.report.study import (
    Study,
    difference,
    draw_bars,
    draw_conditions,
    draw_improvement,
    draw_learning_curves,
    draw_profiles,
    draw_sizes,
    gap_recovered,
    improvement,
    interquartile_means,
    late_gain,
    ratio,
)

LABELS = {
    "comm": "communication (GAT)",
    "no_comm": "no communication",
    "full_observation": "full observation",
    "full_comm": "full observation and communication",
    "lone_class_a": "a lone class A",
    "comm_evasive": "communication (GAT)",
    "no_comm_evasive": "no communication",
    "full_observation_evasive": "full observation",
    "full_comm_evasive": "full observation and communication",
    "comm_long": "classes heard apart",
    "no_comm_long": "no communication",
    "full_observation_long": "full observation",
    "comm_relational_evasive": "classes heard apart",
    "comm_relational": "classes heard apart",
    "native_3a1b": "trained as 3A + 1B",
    "native_1a3b": "trained as 1A + 3B",
    "native_4a4b": "trained as 4A + 4B",
    "native_2_prey": "trained on two prey",
    "native_3_prey": "trained on three prey",
    "native_no_landmarks": "trained without landmarks",
    "generalist": "trained on a mixture of games",
    "comm_evasive_long": "communication (GAT)",
    "no_comm_evasive_long": "no communication",
    "full_observation_evasive_long": "full observation",
    "full_comm_evasive_long": "full observation and communication",
    "links_fail_evasive_long": "communication in half of the episodes",
    "gcn": "mean in place of GAT",
    "temporal_gru": "GRU in place of the transformer",
    "temporal_none": "no history",
    "shared_critic": "one critic for both classes",
    "local_critic": "critics that see what actors see",
}
# Numbers per message by arm, for each prey; hidden_dim is that of the arms that do not set it.
MESSAGE_DIMS = {
    prey: {**{f"comm_{size}{suffix}": size for size in (1, 2, 4, 8, 16)}, f"comm{suffix}": 64}
    for prey, suffix in (("random prey", ""), ("evasive prey", "_evasive"))
}
LABELS |= {
    arm: f"{size} numbers per message" for arms in MESSAGE_DIMS.values() for arm, size in arms.items() if size < 64
}
# By the figures' suffix: the game, arms with communication, the one without, and those with full observation.
GAMES = {
    "random": ("random prey", ["comm"], "no_comm", ["full_observation", "full_comm"]),
    "evasive": (
        "evasive prey", ["comm_evasive", "comm_relational_evasive"], "no_comm_evasive",
        ["full_observation_evasive", "full_comm_evasive"],
    ),
    "evasive_long": (
        "evasive prey, 3,000,000 steps", ["comm_evasive_long", "links_fail_evasive_long"], "no_comm_evasive_long",
        ["full_observation_evasive_long", "full_comm_evasive_long"],
    ),
    "random_long": (
        "random prey, second round (3,000,000 steps, no history)", ["comm_long"], "no_comm_long",
        ["full_observation_long"],
    ),
}  # fmt: skip
# Teams that play games beside those of their own: what is said of them.
TRANSFERRED = {
    "comm": "trained on 2A + 2B, other games without further training",
    "generalist": "trained on a mixture, games that are all in it",
}
PARTS = ("comm", "comm_relational", "gcn", "temporal_gru", "temporal_none", "shared_critic", "local_critic")
# The game of each arm that was trained on it alone: numbers of class A, class B, good agents and landmarks.
NATIVES = {
    "native_3a1b": (3, 1, 1, 2),
    "native_1a3b": (1, 3, 1, 2),
    "native_4a4b": (4, 4, 1, 2),
    "native_2_prey": (2, 2, 2, 2),
    "native_3_prey": (2, 2, 3, 2),
    "native_no_landmarks": (2, 2, 1, 0),
}


def tell(name: str, interval: tuple[float, float, float], form: str = "{:.1f}") -> None:
    """Prints one line of a table."""
    middle, low, high = map(form.format, interval)
    console.print(f"{name:<72} {middle:>7}  [{low}, {high}]")


def main(
    results: Annotated[Path, typer.Argument(help="Folder of the runs.")] = Path("experiments/results/study"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures; without it, figures next to the runs.")
    ] = None,
) -> None:
    """Draws figures of the runs that are there, and prints interquartile means with 95 % bootstrap intervals."""
    study, out = Study(results), out or results / "figures"
    drawn: list[Path] = []
    for suffix, (title, talking, low, highs) in GAMES.items():
        first, *more = talking
        there = {arm: LABELS[arm] for arm in (first, low, *highs, *more) if arm in study.arms}
        if first not in there:
            continue
        talking = [arm for arm in talking if arm in there]
        levels = {name: float(study.returns(first, name)[:1].mean()) for name in BASELINES}
        scores = study.scores(list(there))
        drawn += draw_learning_curves(study, there, levels, out / f"curves_{suffix}")
        drawn += draw_bars(scores, there, levels, out / f"bars_{suffix}")
        drawn += draw_profiles(study, there, out / f"profiles_{suffix}")
        console.print(f"\n{title}: return per adversary, interquartile mean over seeds [95 % interval]")
        for arm, interval in interquartile_means(scores).items():
            tell(f"{LABELS[arm]} ({len(scores[arm])} seeds)", interval)
        for arm in there if study.curves(first)[0].size >= 10 else ():
            tell(f"  {LABELS[arm]}: last fifth minus the fifth before", late_gain(study.curves(arm)[1]), "{:+.1f}")
        for name, level in levels.items():
            console.print(f"{name:<72} {level:>7.1f}")
        highs = [arm for arm in highs if arm in there]
        if low in there and highs:
            for high, arm in product(highs, talking):
                name = f"share of the gap to {LABELS[high]}: {LABELS[arm]}"
                tell(name, gap_recovered(scores, arm, low, high), "{:.2f}")
            found = improvement(scores, first, [low, *highs])
            drawn += draw_improvement(found, LABELS, LABELS[first], out / f"improvement_{suffix}")
        for arm in there:
            if (study.runs(arm)[0] / "class_b_alone.csv").exists():
                alone = study.returns(arm, file="class_b_alone.csv").mean(1, keepdims=True)
                tell(f"  {LABELS[arm]}: class B alone", interquartile_means({arm: alone})[arm])
        for arm in talking:
            conditions = study.conditions(arm)
            drawn += draw_conditions(conditions, levels, out / f"conditions_{arm}")
            console.print(f"{LABELS[arm]}, under channel interventions: difference from the same runs without")
            changes = {
                name: (runs - conditions["team"])[:, None] for name, runs in conditions.items() if name != "team"
            }
            for name, interval in interquartile_means(changes).items():
                tell(f"  {name}", interval, "{:+.1f}")
            console.print("influence of the other class's messages, and entropy of attention (nats)")
            for name, interval in interquartile_means(study.influence(arm)).items():
                tell(f"  {name}", interval, "{:.3f}")
            if low in there:
                without = difference(conditions["cut"][:, None], scores[low])
                tell("links cut, minus teams without communication", without, "{:+.1f}")
    for prey, arms in MESSAGE_DIMS.items():
        sizes = {arm: size for arm, size in arms.items() if arm in study.arms}
        *_, most = arms
        if len(sizes) < 2 or most not in sizes:
            continue
        scores = study.scores(list(sizes))
        suffix = prey.partition(" ")[0]
        drawn += draw_sizes({size: scores[arm] for arm, size in sizes.items()}, out / f"message_dim_{suffix}")
        console.print(
            f"\nnumbers per message, {prey}: return, its share of that with {sizes[most]}, and what a message says"
        )
        for arm, size in sizes.items():
            tell(f"{size} ({len(scores[arm])} seeds)", interquartile_means(scores)[arm])
            tell("  share", ratio(scores[arm], scores[most]), "{:.2f}")
            for name, interval in interquartile_means(study.probes(arm)).items():
                tell(f"  R² of {name}", interval, "{:.2f}")
    parts = {arm: LABELS[arm] for arm in PARTS if arm in study.arms}
    if len(parts) > 1:
        scores = study.scores(list(parts))
        drawn += draw_bars(scores, parts, {}, out / "bars_parts")
        console.print("\nparts of the network, random prey: return per adversary, and difference from the first")
        for arm, interval in interquartile_means(scores).items():
            tell(f"{parts[arm]} ({len(scores[arm])} seeds)", interval)
            if arm != PARTS[0]:
                tell("  difference", difference(scores[arm], scores[PARTS[0]]), "{:+.1f}")
    for source, team in TRANSFERRED.items():
        if source not in study.arms:
            continue
        grid = study.transfers(source)
        drawn += save_figure(draw_heat_map(grid), out / f"transfer_{source}")
        console.print(f"\n{team}: return, over that of teams trained on one game alone")
        for arm, numbers in NATIVES.items():
            if arm in study.arms:
                game = dict(zip(GAME, map(str, numbers), strict=True)) | {"controller": "team"}
                (row,) = (row for row in grid if all(row[key] == value for key, value in game.items()))
                native = study.scores([arm])[arm]
                tell(f"{LABELS[arm]}: {row[VALUE]:.1f} / {native.mean():.1f}", ratio(row["runs"], native), "{:.2f}")
        console.print(f"\n{team}: return of 2A + 2B by numbers of prey and landmarks")
        worlds: dict[tuple[str, str], dict[str, Row]] = {}
        for row in grid:
            if (row["num_class_a"], row["num_class_b"]) == ("2", "2"):
                worlds.setdefault((row["num_good"], row["num_obstacles"]), {})[row["controller"]] = row
        for (prey, landmarks), rows in worlds.items():
            name = f"{prey} prey, {landmarks} landmarks"
            tell(name, interquartile_means({name: rows["team"]["runs"][:, None]})[name])
            console.print("  " + ", ".join(f"{other} {rows[other][VALUE]:.1f}" for other in BASELINES))
    if "lone_class_a" in study.arms:
        console.print("\na lone class A, trained as such")
        tell("return", interquartile_means(study.scores(["lone_class_a"]))["lone_class_a"])
        console.print(f"{'random':<44} {study.returns('lone_class_a', 'random')[0].mean():>7.1f}")
    for path in drawn:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
