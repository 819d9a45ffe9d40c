"""Injects faults into real runs and counts what they cost.

make faults
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import typer
from ray.cluster_utils import Cluster
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from rich.table import Table

from rllib_tag import restore
from rllib_tag.cli.output import console, run_command
from rllib_tag.errors import check_keys
from rllib_tag.experiment.checkpoints import is_complete
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.files import write_csv
from rllib_tag.plugin.old_api_stack.runner import RunnerError, TagRunner
from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPOConfig
from rllib_tag.plugin.ray_internals import on_each_runner
from rllib_tag.results import ITERATION, RETURN, read_results, result_files
from rllib_tag.training.train import TrainOptions, train

HERE = Path(__file__).parent
RLLIB = [sys.executable, "-m", "rllib_tag"]
COMPARED = (
    "timesteps_total", RETURN,
    "info/learner/class_a/learner_stats/total_loss", "info/learner/class_b/learner_stats/total_loss",
)  # fmt: skip
STEPS = re.compile(r"([\d,]+) steps")  # in what `rllib train` prints of an iteration
Curve = dict[int, tuple[float | None, ...]]
Row = dict[str, Any]


def rllib_train(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Starts the small experiment as a user would."""
    command = [*RLLIB, "train", "file", str(HERE / "small.yaml"), "--storage-path", str(folder), "--ray-num-cpus", "1"]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def curve(folder: Path) -> Curve:
    """Returns the compared metrics of a trial's iterations; empty if its results are lost."""
    files = result_files(folder)
    if len(files) != 1:
        return {}
    return {row[ITERATION]: tuple(row.get(key) for key in COMPARED) for row in read_results(files[0])}


def differing(expected: Curve, folder: Path) -> int:
    """Returns how many iterations of a trial are missing, too many, or different from those expected."""
    got = curve(folder)
    return sum(expected.get(step) != got.get(step) for step in expected.keys() | got.keys())


def is_begun(folder: Path) -> bool:
    """Returns whether Tune has saved the experiment's state, so that it can be resumed."""
    return any(folder.glob("*/experiment_state-*.json"))


def unchanged(work: Path) -> tuple[Curve, float]:
    """Returns the curve of an uninterrupted run, and the seconds that it took."""
    began = time.monotonic()
    process = rllib_train(work / "unchanged")
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the uninterrupted run ended with {process.returncode}: {said}")
    return curve(work / "unchanged"), time.monotonic() - began


def killed_drivers(count: int, work: Path, rng: random.Random) -> Row:
    """Kills `rllib train` with `kill -9` at random moments and resumes it; runs must end like an uninterrupted one."""
    expected, seconds = unchanged(work)
    killed = survived = again = runs = unlike = early = 0
    while killed < count:
        runs += 1
        folder, before, trained = work / f"killed_{runs}", killed, []
        while True:
            process = rllib_train(folder, *(["--resume"] if is_begun(folder) else []))
            try:
                said, _ = process.communicate(timeout=rng.uniform(0, seconds) if killed < count else None)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
            trained += STEPS.findall(said)
            if process.returncode != -signal.SIGKILL:
                break
            killed += 1
            early += not is_begun(folder)
        if process.returncode:
            console.print(said)
        lost = differing(expected, folder)
        unlike += lost
        survived += (killed - before) * (process.returncode == 0 and lost == 0)
        again += len(trained) - len(set(trained))
    return {
        "fault": "driver killed (kill -9), then --resume", "injected": killed, "as_expected": survived, "lost": unlike,
        "of": f"iterations: unlike an uninterrupted run's ({again} trained twice; {early} kills before a first state)",
    }  # fmt: skip


def small_config(**changes: Any) -> dict[str, Any]:
    """Returns the small experiment's config."""
    (spec,) = load_experiments(HERE / "small.yaml").values()
    return {**spec["config"], "env": spec["env"], **changes}


def build(batched: bool, **changes: Any) -> PPO:
    """Builds the small experiment's algorithm, with the batched sampler or RLlib's default sampler."""
    kind = TeamPPOConfig if batched else PPOConfig
    runner = BatchedSampler if batched else TagRunner
    config = kind().update_from_dict(small_config(env_runner_cls=runner, **changes))
    return config.algo_class(config)


def killed_runners(count: int, work: Path, rng: random.Random) -> Row:
    """Kills one of two env runners with `kill -9` at random moments; every iteration must still have a full batch."""
    del work
    steps = 2 * 8 * 15
    with one_ray(3):
        algo = build(True, num_env_runners=2, train_batch_size=steps)
        began = time.monotonic()
        algo.train()
        seconds = time.monotonic() - began
        short = iterations = back = 0
        counted = steps
        for _ in range(count):
            runners = alive(algo)
            timer = threading.Timer(rng.uniform(0, seconds), os.kill, (rng.choice(runners), signal.SIGKILL))
            timer.start()
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                trained = algo.train()["info"]["num_env_steps_trained"]
                short += trained - counted < steps
                counted = trained
                iterations += 1
                if not timer.is_alive() and len(set(alive(algo)) - set(runners)) == 1:
                    back += 1
                    break
        algo.stop()
    return {
        "fault": "env runner killed (kill -9)", "injected": count, "as_expected": back, "lost": short,
        "of": f"{iterations} iterations: had less than their batch",
    }  # fmt: skip


def alive(algo: PPO) -> list[int]:
    """Returns the processes of the env runners that answer."""
    return on_each_runner(algo, lambda _: os.getpid(), local_env_runner=False)


def not_finite(count: int, work: Path, rng: random.Random) -> Row:
    """Puts NaN into a position of a game under way, with either sampler, on local and remote env runners in turn.

    The run must end, name the place and leave the weights unchanged.
    """
    del work
    named = spoilt = 0
    with one_ray(2):
        for number in range(count):
            batched, remote = number % 2 == 0, number % 4 >= 2
            algo = build(batched, num_env_runners=int(remote))
            algo.train()
            before = weights(algo)
            game, agent = rng.randrange(8), rng.randrange(2)

            def spoil(worker: RolloutWorker, game: int = game, agent: int = agent) -> None:
                if isinstance(worker, BatchedSampler):
                    worker._player.games.world.vec.positions[game, agent, 0] = np.nan
                elif worker.async_env is not None:
                    env = worker.async_env.get_sub_environments()[game]
                    env.par_env.unwrapped.world.agents[agent].state.p_pos[0] = np.nan

            on_each_runner(algo, spoil, local_env_runner=not remote)
            try:
                algo.train()
            except RunnerError as error:
                named += "expected finite numbers, got" in str(error)
            spoilt += any(not np.array_equal(a, b) for a, b in zip(before, weights(algo), strict=True))
            algo.stop()
    return {
        "fault": "NaN in a game", "injected": count, "as_expected": named, "lost": spoilt,
        "of": "runs: weights changed",
    }  # fmt: skip


def weights(algo: PPO) -> list[np.ndarray]:
    """Returns all weights of all policies."""
    return [array for name in ("class_a", "class_b") for array in algo.get_policy(name).get_weights().values()]


def full_disk(count: int, work: Path, rng: random.Random) -> Row:
    """Fills the disk of the results at a random moment; the run must end and say so, and resume once there is room."""
    expected, seconds = unchanged(work)
    ended = unlike = 0
    for number in range(count):
        with small_disk(work / f"disk_{number}") as disk:
            process = rllib_train(disk / "results")
            while process.poll() is None and not is_begun(disk / "results"):
                time.sleep(0.1)
            time.sleep(rng.uniform(0, seconds / 3))
            had = has_checkpoint(disk)
            fill(disk / "filler")
            said, _ = process.communicate()
            kept = has_checkpoint(disk)
            if kept:
                restore(disk / "results")  # raises if a checkpoint only looks complete
            ended += process.returncode == 1 and "No space left on device" in said and kept >= had
            (disk / "filler").unlink()
            process = rllib_train(disk / "results", *(["--resume"] if is_begun(disk / "results") else []))
            process.communicate()
            unlike += differing(expected, disk / "results")
    return {
        "fault": "disk full, then --resume", "injected": count, "as_expected": ended, "lost": unlike,
        "of": "iterations: unlike an uninterrupted run's",
    }  # fmt: skip


def has_checkpoint(folder: Path) -> bool:
    """Returns whether there is a complete checkpoint below a folder."""
    return any(map(is_complete, folder.glob("**/checkpoint_*")))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mounts a disk of 16 MB in memory, which only root may do."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Writes until the disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while opened.write(b"\0" * 4096):
            pass


def removed_nodes(count: int, work: Path, rng: random.Random) -> Row:
    """Removes a node of a cluster of three under running trials; the others must finish them all."""
    expected, seconds = unchanged(work)
    removed = survived = lost = trials = moved = runs = 0
    while removed < count:
        runs += 1
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

        gone = threading.Event()

        def remove(cluster: Any = cluster, nodes: Any = nodes, gone: threading.Event = gone) -> None:
            gone.set()
            cluster.remove_node(rng.choice(nodes), allow_graceful=False)

        timer = threading.Timer(rng.uniform(seconds / 2, seconds), remove)  # three at a time take longer than one
        timer.start()
        try:
            specs = load_experiments(HERE / "small.yaml")
            specs["small"]["max_failures"] = 3
            specs["small"]["config"]["seed"] = {"grid_search": 3 * [specs["small"]["config"]["seed"]]}
            ends = train(specs, TrainOptions(storage_path=str(work / f"cluster_{runs}")), lambda *_: None, str)
            in_time = gone.is_set()
        finally:
            timer.join()
            ray.shutdown()
            cluster.shutdown()
        if not in_time:
            continue
        removed += 1
        spoilt = [end.status != "TERMINATED" or differing(expected, end.folder) > 0 for end in ends]
        trials += len(ends)
        lost += sum(spoilt)
        survived += not any(spoilt)
        moved += sum(end.error is not None for end in ends)  # what ended a first attempt
    return {
        "fault": "node removed under 3 trials", "injected": count, "as_expected": survived, "lost": lost,
        "of": f"{trials} trials: ended otherwise than unchanged ({moved} had to move)",
    }  # fmt: skip


@contextlib.contextmanager
def one_ray(cpus: int) -> Iterator[None]:
    """Starts a quiet local Ray, unless one is running."""
    owns_ray = not ray.is_initialized()
    if owns_ray:
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        if owns_ray:
            ray.shutdown()


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Redirects both output streams of this process and of Ray's processes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    kept = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        with log.open("ab") as opened:
            for stream in kept:
                os.dup2(opened.fileno(), stream)
            yield
    finally:
        sys.stdout.flush()
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)


FAULTS: dict[str, Callable[[int, Path, random.Random], Row]] = {
    "driver": killed_drivers,
    "runner": killed_runners,
    "nan": not_finite,
    "disk": full_disk,
    "node": removed_nodes,
}
COUNTS = {"driver": 20, "runner": 10, "nan": 12, "disk": 3, "node": 3}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(FAULTS)}; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="CSV to write.")] = Path("experiments/results/faults/faults.csv"),
    log: Annotated[Path, typer.Option(help="File for Ray's output about the faults.")] = Path("out/faults.log"),
    seed: Annotated[int, typer.Option(help="Seed of the random moments.")] = 0,
) -> None:
    """Injects every kind of fault, prints a table and writes it. Rows of other kinds stay in it."""
    check_keys("--only", only or [], FAULTS)
    rows = {}
    if out.exists():
        with out.open(newline="") as opened:
            rows = {row["kind"]: row for row in csv.DictReader(opened)}
    for kind in only or FAULTS:
        began = time.monotonic()
        if kind == "disk" and os.geteuid() != 0:
            console.print("disk: skipped; only root may mount a small disk to fill")
            continue
        console.print(f"{kind}: injecting {COUNTS[kind]}; Ray's output about them goes to {log}")
        with tempfile.TemporaryDirectory(prefix="faults_") as work, output_to(log):
            row = FAULTS[kind](COUNTS[kind], Path(work), random.Random(seed))
        rows[kind] = {"kind": kind, **row, "seconds": round(time.monotonic() - began)}
        write_csv(out, [rows[name] for name in FAULTS if name in rows])
    shown = ("fault", "injected", "as_expected", "lost", "of")
    table = Table(*shown)
    for row in rows.values():
        table.add_row(*(str(row[key]) for key in shown))
    console.print(table)
    if any(int(row["as_expected"]) < int(row["injected"]) or int(row["lost"]) for row in rows.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
