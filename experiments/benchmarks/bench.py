"""All speed figures side by side: each measurement in a process of its own, the two sides of a pair in turn.

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

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy import stats

HERE = Path(__file__).parent
ENVIRONMENTS = Path(".bench")
# torch first and pinned, so that no CUDA build comes down.
PACKAGES = {
    "jaxmarl": [["jaxmarl"]],
    "benchmarl": [["torch==2.13.0"], ["torch==2.13.0", "benchmarl", "vmas", "torch-geometric"]],
}
BENCHMARL = {"batch": 6400, "minibatch": 800, "epochs": 5, "hidden_dim": 128}
# The same for ours: one minibatch of 800 environment steps is 1,600 agent steps of each of two policies.
OURS = {"num_envs_per_env_runner": 32, "train_batch_size": 6400, "minibatch_size": 1600, "num_epochs": 5}
FULL_GRAPH = {"history_length": 1, "comm_range": "inf"}  # as BenchMARL's
GATV2 = {"gnn": "gatv2", "gnn_layers": 1, "temporal": "none", "hidden_dim": 128}
DEFAULT_MODEL = {"hidden_dim": 128, "num_layers": 2}
console = Console(soft_wrap=True)
Figures = dict[str, float]
Row = dict[str, Any]


def run(python: str, script: str, *arguments: str, threads: int | None = None) -> Figures:
    """What a script prints as its last line."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [python, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(what: str, threads: int = 1, **settings: Any) -> Callable[[], Figures]:
    """A measurement of `measure.py`."""
    return lambda: run(sys.executable, "measure.py", what, json.dumps(settings), threads=threads)


def other(name: str, **settings: Any) -> Callable[[], Figures]:
    """A measurement of another library in its own environment."""
    python = str(ENVIRONMENTS / name / "bin" / "python")
    return lambda: run(python, f"{name}_tag.py", json.dumps(settings))


def install(name: str) -> bool:
    """Makes the other library's environment if it is not there; says so where that cannot be done."""
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


def repeat(
    name: str, sides: dict[str, Callable[[], Figures]], repeats: int, rows: list[Row], first: int = 1
) -> dict[str, Figures]:
    """Measures the sides in turn: the median of each figure of each side, over all its rows."""
    for i in range(first, first + repeats):
        for side, measure in sides.items():
            figures = measure()
            rows.append({"figure": name, "side": side, "repeat": i, **figures})
            console.print(f"{name}  {side}  {figures.get('env_steps_per_s', 0):,.0f} env steps/s", highlight=False)
    medians = {}
    for side in sides:
        found = [row for row in rows if row["figure"] == name and row["side"] == side]
        keys = found[0].keys() - {"figure", "side", "repeat"}
        medians[side] = {key: statistics.median(row[key] for row in found) for key in keys}
    return medians


def compare(repeats: int, seeds: int, rows: list[Row]) -> list[Row]:
    """Every pair with its goal: a row of the summary each."""
    summary: list[Row] = []

    def pair(name: str, goal: float, mine: Callable[[], Figures], theirs: Callable[[], Figures], times: int) -> None:
        medians = repeat(name, {"ours": mine, "other": theirs}, times, rows)
        a, b = (medians[side]["env_steps_per_s"] for side in ("ours", "other"))
        summary.append({"figure": name, "ours": a, "other": b, "ratio": a / b, "goal": goal})

    def best(name: str, choices: dict[str, Callable[[], Figures]]) -> str:
        medians = repeat(name, choices, 1, rows)
        return max(medians, key=lambda choice: medians[choice]["env_steps_per_s"])

    vec4, vec16 = (ours("simulator", num_envs=1024, num_adversaries=x, num_good=y) for x, y in ((4, 1), (16, 4)))
    pair("simulator 4+1, against mpe2", 150, vec4, ours("mpe2", num_adversaries=4, num_good=1), repeats)
    pair("simulator 16+4, against mpe2", 500, vec16, ours("mpe2", num_adversaries=16, num_good=4), repeats)
    if install("jaxmarl"):
        jax = other("jaxmarl", num_envs=1024, num_adversaries=4, num_good=1)
        pair("simulator 4+1, against JaxMARL", 1.0, vec4, jax, repeats)
    chosen = {}
    for batched in (True, False):
        choices = {
            str(size): ours("sampling", batched=batched, num_envs=size, model=DEFAULT_MODEL)
            for size in (1, 16, 64, 256)
        }
        size = best(f"sampling, how many envs, {'ours' if batched else 'plain'}", choices)
        chosen[batched] = size, choices[size]
    name = f"sampling, {chosen[True][0]} envs against plain RLlib's {chosen[False][0]}"
    pair(name, 10, chosen[True][1], chosen[False][1], repeats)
    threads = best(
        "training, how many threads, plain",
        {str(n): ours("training", n, batched=False, iterations=2, env={}, model={}) for n in (1, 2)},
    )
    name = "training tag_ppo.yaml, against plain RLlib"
    for seed in range(1, seeds + 1):
        sides = {
            "ours": ours("training", batched=True, iterations=3, env={}, model={}, seed=seed),
            "other": ours("training", int(threads), batched=False, iterations=3, env={}, model={}, seed=seed),
        }
        medians = repeat(name, sides, 1, rows, first=seed)
    a, b = (medians[side]["env_steps_per_s"] for side in ("ours", "other"))
    summary.append({"figure": name, "ours": a, "other": b, "ratio": a / b, "goal": 8})
    if install("benchmarl"):
        others = {str(n): other("benchmarl", iterations=2, **BENCHMARL | {"num_envs": n}) for n in (64, 320)}
        size = int(best("training, how many envs, BenchMARL", others))
        theirs = other("benchmarl", iterations=4, **BENCHMARL | {"num_envs": size})
        mine = ours("training", batched=True, iterations=5, env=FULL_GRAPH, model=GATV2, **OURS)
        pair(f"training GATv2, against BenchMARL's {size} envs", 1.5, mine, theirs, repeats)
    medians = repeat("learning", {"ours": ours("learning", env={}, model={})}, repeats, rows)["ours"]
    a, b = medians["gflop_per_s"], medians["matmul_gflop_per_s"]
    summary.append({"figure": "learning, GFLOP/s of the machine's", "ours": a, "other": b, "ratio": a / b, "goal": 0.4})
    return summary


def growth(rows: list[Row]) -> list[Row]:
    """Cost of an agent step in microseconds and bytes of a batch, by team size."""
    summary = []
    for n in (4, 8, 16, 32):
        env = {"num_class_a": n // 2, "num_class_b": n // 2}
        small = {
            "num_envs_per_env_runner": 64,
            "rollout_fragment_length": 10,
            "train_batch_size": 640,
            "minibatch_size": 640,
            "num_epochs": 1,
        }
        physics = ours("simulator", num_envs=64, num_adversaries=n, num_good=1)()
        learn = ours("learning", env=env, model={}, **small)()
        train = ours("training", batched=True, iterations=3, env=env, model={}, num_env_runners=0, **small)()
        row = {
            "adversaries": n,
            "physics": 1e6 / physics["env_steps_per_s"] / (n + 1),
            "sampling": 1e6 * train["sample"] / 640 / n,
            "learning": 1e6 / learn["env_steps_per_s"] / n,
            "batch bytes": learn["batch_bytes_per_env_step"] / n,
        }
        rows += [{"figure": f"growth, {n} adversaries", "side": key, "repeat": 0, "value": row[key]} for key in row]
        console.print(row)
        summary.append(row)
    return summary


def returns(rows: list[Row]) -> list[Row]:
    """The return after the same number of steps, batched and plain: the mean over seeds and its 95 % interval."""
    out = []
    for side in ("ours", "other"):
        found = [row["return"] for row in rows if row["side"] == side and row["figure"].startswith("training tag_ppo")]
        half = stats.t.ppf(0.975, len(found) - 1) * stats.sem(found)
        out.append({"side": side, "seeds": len(found), "return": float(np.mean(found)), "interval": float(half)})
    return out


def write(path: Path, rows: list[Row]) -> None:
    """Writes rows, which may differ in their columns, as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    console.print(f"wrote {path}")


def show(title: str, rows: list[Row]) -> None:
    """Prints rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


def plot(summary: list[Row], path: Path) -> None:
    """Ratios against their goals, as bars on a logarithmic axis."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(summary) + 1.2), layout="constrained")
    places = np.arange(len(summary))[::-1]
    reached = [row["ratio"] >= row["goal"] for row in summary]
    axes.barh(places, [row["ratio"] for row in summary], color=["#0072b2" if r else "#d55e00" for r in reached])
    axes.scatter([row["goal"] for row in summary], places, marker="|", s=500, color="black", label="goal", zorder=3)
    for place, row in zip(places, summary, strict=True):
        axes.annotate(f"{row['ratio']:.3g}", (row["ratio"], place), (4, 0), textcoords="offset points", va="center")
    axes.set(xscale="log", xlabel="ratio, ours to the other's", xlim=(0.1, 5000))
    axes.set_yticks(places, [row["figure"] for row in summary])
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    console.print(f"wrote {path}")


def machine() -> str:
    """What this was measured on."""
    names = {
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    }
    return f"{datetime.date.today()}, {os.cpu_count()} cores of {', '.join(names) or platform.processor()}"


def main(
    out: Annotated[Path, typer.Option(help="Folder for CSV and plot.")] = Path("out/benchmarks"),
    repeats: Annotated[int, typer.Option(help="Measurements of each side of a pair.", min=1)] = 5,
    seeds: Annotated[int, typer.Option(help="Training runs of each side, a seed each.", min=2)] = 5,
) -> None:
    """Measures everything, prints the tables, writes CSV and a plot."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    summary = compare(repeats, seeds, rows)
    learned = returns(rows)
    grown = growth(rows)
    for name, table in (("summary", summary), ("returns", learned), ("growth", grown), ("measurements", rows)):
        write(out / f"{name}.csv", [{**row, "machine": machine()} for row in table])
    plot(summary, out / "ratios.png")
    show(machine(), summary)
    show("return per adversary after the same steps: mean over seeds and half its 95 % interval", learned)
    show("microseconds and bytes of a train batch, an agent step", grown)


if __name__ == "__main__":
    typer.run(main)
