"""Measures all speeds: each measurement in a process of its own, the two sides of a pair in turn.

make bench
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from scipy import stats

from rllib_tag.cli.output import console
from rllib_tag.files import write_csv
from rllib_tag.report.figures import new_figure, save_figure

HERE = Path(__file__).parent
ENVIRONMENTS = Path(".bench")
# torch first and pinned, so that no CUDA build is downloaded.
PACKAGES = {
    "jaxmarl": [["jaxmarl==0.2.0", "jax==0.10.2"]],
    "benchmarl": [
        ["torch==2.13.0"],
        ["torch==2.13.0", "benchmarl==1.5.2", "vmas==1.5.2", "torchrl==0.11.1", "torch-geometric==2.8.1"],
    ],
}
BENCHMARL = {"batch": 6400, "minibatch": 800, "epochs": 5, "hidden_dim": 128}
# The same for ours: a minibatch of 800 environment steps is 1,600 agent steps of each of two policies.
OURS = {"num_envs_per_env_runner": 32, "train_batch_size": 6400, "minibatch_size": 1600, "num_epochs": 5}
FULL_GRAPH = {"history_length": 1, "comm_range": "inf"}  # as BenchMARL's
# With `frame: absolute`, this is torch-geometric's layer, as in BenchMARL, which also has one critic for all.
GATV2 = {
    "gnn": "gatv2", "gnn_layers": 1, "temporal": "none", "hidden_dim": 128, "critic": "shared", "frame": "absolute",
}  # fmt: skip
DEFAULT_MODEL = {"hidden_dim": 128, "num_layers": 2}
ITERATIONS = 9  # of 12,800 steps: enough for the team to learn to hunt
Metrics = dict[str, float]
Sides = dict[str, Callable[[], Metrics]]
Row = dict[str, Any]
TRAINING = "training tag_ppo.yaml, against plain RLlib"


def run(python: str, script: str, *arguments: str, threads: int | None = None) -> Metrics:
    """Runs a script, and returns what it prints as its last line."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [python, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(what: str, threads: int = 1, **settings: Any) -> Callable[[], Metrics]:
    """Returns a measurement by `measure.py`."""
    return lambda: run(sys.executable, "measure.py", what, json.dumps(settings), threads=threads)


def other(name: str, **settings: Any) -> Callable[[], Metrics]:
    """Returns a measurement of another library in a virtual environment of its own."""
    python = str(ENVIRONMENTS / name / "bin" / "python")
    return lambda: run(python, f"{name}_tag.py", json.dumps(settings))


def install(name: str) -> bool:
    """Makes another library's virtual environment if there is none. Returns whether that worked; if not, says so."""
    folder = ENVIRONMENTS / name
    if (folder / "whole").exists():
        return True
    console.print(f"installing {name}")
    commands = [[sys.executable, "-m", "venv", "--clear", str(folder)]]
    commands += [[str(folder / "bin" / "pip"), "install", "--quiet", *packages] for packages in PACKAGES[name]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            console.print(f"skipped: {name} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
            return False
    (folder / "whole").touch()
    return True


class Ledger:
    """All measurements, written as they come. What is in the file already is not measured again.

    Args:
        path: A CSV file with one value per line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._found: dict[tuple[str, str, int], Metrics] = {}
        if path.exists():
            with path.open(newline="") as file:
                self._rows += csv.DictReader(file)
            for row in self._rows:
                key = row["measurement"], row["side"], int(row["repeat"])
                self._found.setdefault(key, {})[row["figure"]] = float(row["value"])
            console.print(f"continuing {path}; delete it to measure everything again")

    def metrics(self, measurement: str, side: str, repeat: int, measure: Callable[[], Metrics]) -> Metrics:
        """Returns what was measured, now or before."""
        key = measurement, side, repeat
        if key not in self._found:
            self._found[key] = measure()
            named = {"measurement": measurement, "side": side, "repeat": repeat}
            found = self._found[key].items()
            self._rows += [{**named, "figure": name, "value": value, "machine": machine()} for name, value in found]
            write_csv(self._path, self._rows)
            said = ", ".join(f"{figure} {value:,.4g}" for figure, value in self._found[key].items())
            console.print(f"{measurement} | {side} | {said}")
        return self._found[key]

    def medians(self, measurement: str, sides: Sides, repeats: int) -> dict[str, Metrics]:
        """Measures the sides in turn, and returns each side's medians."""
        found: dict[str, list[Metrics]] = {side: [] for side in sides}
        for i in range(1, repeats + 1):
            for side, measure in sides.items():
                found[side].append(self.metrics(measurement, side, i, measure))
        return {
            side: {name: statistics.median(metrics[name] for metrics in many) for name in many[0]}
            for side, many in found.items()
        }


def compare(ledger: Ledger, repeats: int, seeds: int) -> list[Row]:
    """Measures every pair, and returns a row of the summary for each, with its goal."""
    summary: list[Row] = []

    def note(name: str, goal: float, a: float, b: float) -> None:
        summary.append({"figure": name, "ours": a, "other": b, "ratio": a / b, "goal": goal})

    def pair(name: str, goal: float, mine: Callable[[], Metrics], theirs: Callable[[], Metrics]) -> None:
        medians = ledger.medians(name, {"ours": mine, "other": theirs}, repeats)
        note(name, goal, *(medians[side]["env_steps_per_s"] for side in ("ours", "other")))

    def best(name: str, choices: Sides) -> str:
        medians = ledger.medians(name, choices, 1)
        return max(medians, key=lambda choice: medians[choice]["env_steps_per_s"])

    vec4, vec16 = (ours("simulator", num_envs=1024, num_adversaries=x, num_good=y) for x, y in ((4, 1), (16, 4)))
    pair("simulator 4+1, against mpe2", 150, vec4, ours("mpe2", num_adversaries=4, num_good=1))
    pair("simulator 16+4, against mpe2", 500, vec16, ours("mpe2", num_adversaries=16, num_good=4))
    if install("jaxmarl"):
        jax = other("jaxmarl", num_envs=1024, num_adversaries=4, num_good=1)
        pair("simulator 4+1, against JaxMARL", 1.0, vec4, jax)
    if install("benchmarl"):
        sides = {str(n): other("benchmarl", iterations=2, **BENCHMARL | {"num_envs": n}) for n in (64, 320)}
        size = int(best("how many envs, BenchMARL", sides))
        theirs = other("benchmarl", iterations=4, **BENCHMARL | {"num_envs": size})
        mine = ours("training", batched=True, iterations=5, env=FULL_GRAPH, model=GATV2, **OURS)
        pair(f"training GATv2, against BenchMARL's {size} envs", 1.5, mine, theirs)
    learned = ledger.medians("learning", {"ours": ours("learning", env={}, model={})}, repeats)["ours"]
    note("learning, GFLOP/s of the machine's", 0.5, learned["gflop_per_s"], learned["matmul_gflop_per_s"])
    chosen = {}
    for batched, side in ((True, "ours"), (False, "plain")):
        sides = {str(n): ours("sampling", batched=batched, num_envs=n, model=DEFAULT_MODEL) for n in (1, 16, 64, 256)}
        chosen[batched] = int(best(f"how many envs, {side}", sides))
    for what, model in (("sampling", DEFAULT_MODEL), ("sampling tag_ppo.yaml", {})):
        name = f"{what}, {chosen[True]} envs against plain RLlib's {chosen[False]}"
        pair(name, 14, *(ours("sampling", batched=kind, num_envs=size, model=model) for kind, size in chosen.items()))
    sides = {str(n): ours("training", n, batched=False, iterations=2, env={}, model={}) for n in (1, 2)}
    threads = int(best("how many threads, plain", sides))
    rates: dict[str, list[float]] = {"ours": [], "other": []}
    for seed in range(1, seeds + 1):
        sides = {
            "ours": ours("training", batched=True, iterations=ITERATIONS, env={}, model={}, seed=seed),
            "other": ours("training", threads, batched=False, iterations=ITERATIONS, env={}, model={}, seed=seed),
        }
        for side, measure in sides.items():
            rates[side].append(ledger.metrics(TRAINING, side, seed, measure)["env_steps_per_s"])
    note(TRAINING, 14, statistics.median(rates["ours"]), statistics.median(rates["other"]))
    new, old = (
        ours("training", batched=True, iterations=ITERATIONS, env={}, model={}, new_api_stack=kind)
        for kind in (True, False)
    )
    pair("training tag_ppo.yaml, the new API stack against the old one", 1.0, new, old)
    return summary


def returns(ledger: Ledger, seeds: int) -> list[Row]:
    """Returns the training runs' return after the same steps: the mean over seeds, and half its 95 % interval."""
    out = []
    for side in ("ours", "other"):
        found = [ledger.metrics(TRAINING, side, seed, dict)["return"] for seed in range(1, seeds + 1)]
        half = stats.t.ppf(0.975, seeds - 1) * stats.sem(found)
        out.append({"side": side, "seeds": seeds, "return": float(np.mean(found)), "interval": float(half)})
    return out


def growth(ledger: Ledger, repeats: int) -> list[Row]:
    """Returns, by team size, links per adversary, and microseconds and bytes of a train batch per agent step."""
    summary = []
    for n in (4, 8, 16, 32):
        env = {"num_class_a": n // 2, "num_class_b": n // 2}
        small = {
            "num_envs_per_env_runner": 64, "rollout_fragment_length": 10, "train_batch_size": 640,
            "minibatch_size": 640, "num_epochs": 1, "num_env_runners": 0,
        }  # fmt: skip
        sides = {
            "physics": ours("simulator", num_envs=64, num_adversaries=n, num_good=1),
            "sampling": ours("training", batched=True, iterations=12, env=env, model={}, **small),
            "learning": ours("learning", env=env, model={}, **small),
        }
        medians = ledger.medians(f"growth, {n} adversaries", sides, repeats)
        summary.append({
            "adversaries": n,
            "links": medians["sampling"]["links"],
            "physics": 1e6 / medians["physics"]["env_steps_per_s"] / (n + 1),
            "sampling": 1e6 * medians["sampling"]["sample"] / 640 / n,
            "learning": 1e6 / medians["learning"]["env_steps_per_s"] / n,
            "bytes": medians["learning"]["batch_bytes_per_env_step"] / n,
        })  # fmt: skip
    return summary


def cells(row: Row) -> list[str]:
    """Returns a row's values as tables show them."""
    return [said(value) if isinstance(value, float) else str(value) for value in row.values()]


def said(value: float) -> str:
    """Returns a number with three digits, or with all that are before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(title: str, rows: list[Row]) -> None:
    """Prints rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)


def plot(summary: list[Row], path: Path) -> None:
    """Draws ratios next to their goals, as bars on a logarithmic axis."""
    figure, axes = new_figure((9, 0.55 * len(summary) + 1.2))
    places = np.arange(len(summary))[::-1]
    reached = [row["ratio"] >= row["goal"] for row in summary]
    axes.barh(places, [row["ratio"] for row in summary], color=["#0072b2" if r else "#d55e00" for r in reached])
    axes.scatter([row["goal"] for row in summary], places, marker="|", s=500, color="black", label="goal", zorder=3)
    for place, row in zip(places, summary, strict=True):
        axes.annotate(
            f"{row['ratio']:.3g}", (0, place), (5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", color="white",
        )  # fmt: skip
    axes.set(xscale="log", xlabel="ratio, ours to the other's", xlim=(0.02, 5000))
    axes.set_yticks(places, [row["figure"] for row in summary])
    axes.legend(loc="lower right")
    for written in save_figure(figure, path):
        console.print(f"wrote {written}")


def machine() -> str:
    """Returns the day, and the machine that this is measured on."""
    names = {
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    }
    return f"{datetime.date.today()}, {os.cpu_count()} cores of {', '.join(names) or platform.processor()}"


def main(
    out: Annotated[Path, typer.Option(help="Folder for CSV and plot.")] = Path("out/benchmarks"),
    repeats: Annotated[int, typer.Option(help="Measurements of each side of a pair.", min=1)] = 5,
    seeds: Annotated[int, typer.Option(help="Training runs of each side, one per seed.", min=2)] = 5,
) -> None:
    """Measures everything, prints the tables, writes CSV and a plot; continues where it was interrupted."""
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / "measurements.csv")
    grown = growth(ledger, min(3, repeats))
    summary = compare(ledger, repeats, seeds)
    learned = returns(ledger, seeds)
    for name, table in (("summary", summary), ("returns", learned), ("growth", grown)):
        write_csv(out / f"{name}.csv", [{**row, "machine": machine()} for row in table])
        console.print(f"wrote {out / name}.csv")
    plot(summary, out / "ratios.png")
    show(f"{machine()}: environment steps per second", summary)
    show("return per adversary after the same steps: mean over seeds and half its 95 % interval", learned)
    show("links per adversary; microseconds and bytes of a train batch per agent step", grown)


if __name__ == "__main__":
    typer.run(main)
