"""Trains and evaluates the arms of a study, one run per seed, and keeps each run's results as it ends.

make study
make games
"""

from __future__ import annotations

import copy
import multiprocessing
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from rllib_tag import evaluate, restore
from rllib_tag.cli.output import console, run_command
from rllib_tag.errors import check_keys
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.files import write_csv, write_json
from rllib_tag.names import BASELINES, RANDOM, team_return
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.nn.products import is_low
from rllib_tag.playing.evaluate import FIRST_SEED
from rllib_tag.playing.probe import probe
from rllib_tag.playing.transfer import transfer
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.results import CUSTOM, JSON, SECONDS, env_steps, read_results, with_number
from rllib_tag.training.train import TrainOptions, train

HERE = Path(__file__).parent
BASELINES_ON = ("comm", "comm_evasive")  # where report.py draws or prints them
TAGS_OWN = ("captured", "steps_to_first_contact")  # metrics that only tag has
TRANSFERRED = ("comm", "generalist")
QUANTIZED = tuple(f"quantize:{bits}" for bits in (8, 4, 2, 1))  # for learned messages
interrupted = threading.Event()  # so that Ctrl-C, which every process gets, ends the whole study


def seeds_of(spec: Mapping[str, Any]) -> list[int]:
    """Returns the seeds of an arm."""
    return spec["config"]["seed"]["grid_search"]


def is_done(folder: Path) -> bool:
    """Returns whether a run's results are there; the summary is written last."""
    return (folder / "summary.json").exists()


def run(
    arm: str, spec: Mapping[str, Any], seed: int, out: Path, work: Path, episodes: int, first_seed: int,
    interventions: bool,
) -> bool:  # fmt: skip
    """Trains one seed of an arm and writes its results. Returns False if it did not end well.

    Writes `curve.csv`, `episodes.csv`, `summary.json` and, under interventions, for a team that communicates
    `conditions.csv`; for one with `encoder: shared` also `probe.csv`, what its messages say; for the arms in
    `TRANSFERRED` also `transfer.csv`. Its `precision` is that of matrix products on this machine's CPU.
    """
    name = f"{arm}_{seed}"
    spec = copy.deepcopy(dict(spec))
    spec["config"]["seed"] = seed
    is_begun = any((work / name).glob("experiment_state-*.json"))
    options = TrainOptions(storage_path=str(work), resume=is_begun, ray_num_cpus=1)
    (end,) = train({name: spec}, options, partial(_progress, name), lambda note: None)
    if end.status != "TERMINATED":
        console.print(f"{name}: {end.status} {end.error or ''}")
        return False
    folder = out / arm / f"seed_{seed}"
    team = restore(end.folder)
    config = team.env_config_for()
    is_tag = isinstance(config, TagEnvConfig)
    encoders = [net.encoder for net in team.nets.values() if isinstance(net, AdversaryNet)]
    communicates = interventions and all(encoder.config.listens for encoder in encoders)
    sends = is_tag and interventions and all(encoder.shares_messages(config.comm_hops) for encoder in encoders)
    baselines = (tuple(BASELINES) if arm in BASELINES_ON else ()) if is_tag else (RANDOM,)
    conditions = ("all" if is_tag else "cut",) if communicates else ()
    if sends:
        conditions += QUANTIZED
    # A team that learned on several ranges is compared on the largest.
    reach = {"comm_range": max(config.comm_range)} if isinstance(config.comm_range, tuple) else {}
    result = evaluate(team, episodes=episodes, baselines=baselines, messages=conditions, first_seed=first_seed, **reach)
    summary = result.summary()
    returned = team_return(summary["team"])
    curve = read_columns(end.folder / JSON, returned)
    write_csv(folder / "curve.csv", curve)
    write_csv(folder / "episodes.csv", [row for row in result.rows if row["controller"] not in result.conditions])
    if result.conditions:
        played = ("team", *result.conditions)
        write_csv(folder / "conditions.csv", [_condition(name, summary[name], returned) for name in played])
    if arm in TRANSFERRED:
        write_csv(folder / "transfer.csv", transfer(team, episodes=episodes, first_seed=first_seed))
    if sends:
        write_csv(folder / "probe.csv", probe(team, **reach))
    is_bfloat16 = is_low(encoders[0].config.precision, torch.device("cpu"))
    write_json(folder / "summary.json", {**result.as_json(), "precision": "bfloat16" if is_bfloat16 else "float32"})
    console.print(f"{name}: {summary['team'][returned]['mean']:.1f}")
    return True


def read_columns(path: Path, returned: str) -> list[dict[str, float]]:
    """Returns steps, seconds and return of each iteration in a trial's file of results."""
    metric = f"{CUSTOM}{returned}_mean"
    return [
        {"env_steps": env_steps(row), "seconds": round(row[SECONDS], 1), returned: row[metric]}
        for row in with_number(read_results(path), metric)
    ]


def _condition(name: str, metrics: Mapping[str, Mapping[str, float | None]], returned: str) -> dict[str, Any]:
    out: dict[str, Any] = {"condition": name}
    for key in (returned, "return_minus_team", *TAGS_OWN):
        if key in metrics or key == "return_minus_team":
            found = metrics.get(key, {"mean": 0.0, "standard_error": 0.0})  # the team's difference from itself
            out |= {f"{key}_mean": found["mean"], f"{key}_se": found["standard_error"]}
    return out


def _progress(name: str, trial: str, result: Mapping[str, Any], stop: Mapping[str, float]) -> None:
    if result["training_iteration"] % 20 == 0:
        metrics = result["env_runners"]["custom_metrics"]
        returned = metrics[f"{team_return([name.removesuffix('_mean') for name in metrics])}_mean"]
        steps, seconds = result["timesteps_total"], result["time_total_s"]
        console.print(f"{name:<30} {steps:>10,} steps {seconds:>6.0f} s  return {returned:6.1f}")


def _begin(deadline: float, job: tuple[Any, ...]) -> bool:
    """Calls `run` on one core, unless it is too late. Returns False if it, or one before it here, did not end well."""
    torch.set_num_threads(1)
    if not interrupted.is_set() and time.time() <= deadline and not run(*job):
        interrupted.set()
    return not interrupted.is_set()


def main(
    file: Annotated[Path, typer.Argument(help="File of the arms.")] = HERE / "study.yaml",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("experiments/results/study"),
    work: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("out/study"),
    minutes: Annotated[float, typer.Option(help="Start no run after this many minutes.")] = 1e9,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; may be repeated.")] = None,
    episodes: Annotated[int, typer.Option(help="Evaluation episodes of each run.")] = 128,
    first_seed: Annotated[
        int, typer.Option("--seed", help="Seed of the first episode; the others count up.")
    ] = FIRST_SEED,
    interventions: Annotated[bool, typer.Option(help="Also evaluate under channel interventions.")] = True,
    jobs: Annotated[int, typer.Option(help="Runs at once; each takes one core.")] = 2,
) -> None:
    """Runs what has no results yet, in the file's order; continues where it was interrupted."""
    arms, deadline = load_experiments(file), time.time() + 60 * minutes
    check_keys("--arm", arm or [], arms)
    left = [
        (name, arms[name], seed, out, work, episodes, first_seed, interventions)
        for name in arm or arms
        for seed in seeds_of(arms[name])
        if not is_done(out / name / f"seed_{seed}")
    ]
    begin = partial(_begin, deadline)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            done = all(map(begin, left) if jobs == 1 else pool.map(begin, left))
        finally:
            pool.shutdown(cancel_futures=True)  # running ones may end; no others start
    if not done:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
