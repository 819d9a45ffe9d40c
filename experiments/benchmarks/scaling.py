"""Measures training with more env runners on one and two nodes, and models it with more machines.

make scaling
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from bench import Ledger, Metrics, Row, console, machine, ours, show

from rllib_tag.files import write_csv

RUNNERS, NODES = (1, 2, 4), (1, 2)
ALONE = "runners 1, nodes 1"
BEYOND = (1, 2, 4, 8, 16, 32)
NETWORKS = {"1 Gbit/s": 1.25e8, "10 Gbit/s": 1.25e9}  # bytes per second


def modelled(alone: Metrics, runners: int, bytes_per_s: float) -> float:
    """Returns modelled environment steps per second, with a core for each runner on machines of their own.

    Runners share the sampling, S / n seconds, as if games were no slower where a runner has fewer of them. The
    learner's L seconds follow, as in PPO. Each runner's part of the batch, and the weights to each of n runners, pass
    the learner's network one after the other.
    """
    moved = alone["batch_bytes"] + runners * alone["weights_bytes"]
    return alone["env_steps"] / (alone["sample"] / runners + alone["learn"] + moved / bytes_per_s)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the CSVs.")] = Path("out/benchmarks"),
    repeats: Annotated[int, typer.Option(help="Measurements of each setting.", min=1)] = 3,
) -> None:
    """Measures with 1, 2 and 4 env runners on 1 and 2 nodes, prints the tables and writes CSV."""
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / "scaling_measurements.csv")
    sides = {
        f"runners {runners}, nodes {nodes}": ours("scaling", runners=runners, nodes=nodes)
        for nodes in NODES
        for runners in RUNNERS
    }
    medians = ledger.medians("scaling", sides, repeats)
    measured: list[Row] = [
        {"what": side, "env_steps_per_s": metrics["env_steps"] / metrics["seconds"], **metrics}
        for side, metrics in medians.items()
    ]
    beyond: list[Row] = [
        {"runners": n, **{name: modelled(medians[ALONE], n, rate) for name, rate in NETWORKS.items()}} for n in BEYOND
    ]
    for name, rows in (("scaling", measured), ("scaling_model", beyond)):
        write_csv(out / f"{name}.csv", [{**row, "machine": machine()} for row in rows])
        console.print(f"wrote {out / name}.csv")
    shown = ("what", "env_steps_per_s", "seconds", "sample", "learn")
    show(f"{machine()}: medians; seconds of an iteration", [{key: row[key] for key in shown} for row in measured])
    show("modelled, not measured: environment steps per second with a core for each runner", beyond)


if __name__ == "__main__":
    typer.run(main)
