"""Compares `tag_ppo_gpu.yaml` on a GPU with the same on CPUs: whether they agree, and the speed.

make gpu
"""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Annotated, Any

import measure
import numpy as np
import torch
import typer
from bench import show

from rllib_tag.cli.output import console
from rllib_tag.files import write_csv

# In float32 with sums in another order: outputs in their standard deviations, weights in the largest step of any.
TOLERANCE = {"logits": 1e-3, "values": 1e-3, "weights": 0.02}
SMALL = {
    "num_env_runners": 0, "num_envs_per_env_runner": 16, "train_batch_size": 1600, "minibatch_size": 0, "num_epochs": 1,
    "grad_clip": None,
}  # fmt: skip
Row = dict[str, Any]


def on_cpus(runners: int) -> dict[str, Any]:
    """Returns the options that use no GPU, and as many env runners for the same games."""
    games = 256 // runners
    return {"num_gpus": 0, "num_gpus_per_env_runner": 0, "num_env_runners": runners, "num_envs_per_env_runner": games}


def build(device: dict[str, Any], model: dict[str, Any], **options: Any) -> Any:
    """Builds an algorithm from `tag_ppo_gpu.yaml`."""
    return measure.algorithm(True, {}, model, experiment="tag_ppo_gpu", **{"seed": 1, **device, **options})


def equality(gpu: dict[str, Any]) -> list[Row]:
    """Returns the largest differences between both devices, for the same weights and the same batch.

    Args:
        gpu: The options that put learner and env runners on the GPU.
    """
    there, here = (build({**on_cpus(1), **device, **SMALL}, {"precision": "float32"}) for device in (gpu, {}))
    batch = here.env_runner.sample()
    found = dict.fromkeys(TOLERANCE, 0.0)
    obs = {key: value for each in batch.policy_batches.values() for key, value in each["obs"].items()}
    before = {name: here.get_policy(name).get_weights() for name in batch.policy_batches}
    for name, part in batch.policy_batches.items():
        for each in (there, here):
            # The first step of Adam is the sign of a gradient, even of one that is rounding, unless eps is large.
            each.get_policy(name)._optimizers[0].param_groups[0]["eps"] = 1e-2
        policy = there.get_policy(name)
        policy.set_weights(before[name])
        # The sampler's own columns are what the policy on the CPU computed when it acted.
        seen = {**obs, "receivers": part["obs"]["receivers"]}
        with torch.no_grad():
            logits = policy.model.net.outputs(policy.features(seen)).cpu().numpy()
        for key, ours, column in (
            ("logits", logits, "action_dist_inputs"),
            ("values", policy.values(seen), "vf_preds"),
        ):
            found[key] = max(found[key], float(np.abs(ours - part[column]).max() / part[column].std()))
    for each in (there, here):
        each._learn(copy.deepcopy(batch))
    for name, old in before.items():
        ours, theirs = (each.get_policy(name).get_weights() for each in (there, here))
        moved = max(float(np.abs(theirs[key] - old[key]).max()) for key in old)
        off = max(float(np.abs(theirs[key] - ours[key]).max()) for key in old)
        found["weights"] = max(found["weights"], off / moved)
    for each in (there, here):
        each.stop()
    return [
        {"compared": key, "difference": value, "tolerance": TOLERANCE[key], "equal": value <= TOLERANCE[key]}
        for key, value in found.items()
    ]


def speed(side: str, device: dict[str, Any], iterations: int, **options: Any) -> Row:
    """Returns the environment steps per second of iterations after the first, and the seconds of their parts."""
    trained = build(device, {}, **options)
    try:
        return {"side": side, **measure.timed(trained, iterations)}
    finally:
        trained.stop()


def main(
    out: Annotated[Path, typer.Option(help="Folder for the CSV files.")] = Path("out/gpu"),
    iterations: Annotated[int, typer.Option(help="Timed iterations of each side.", min=1)] = 5,
) -> None:
    """Compares both devices, prints two tables and writes them as CSV; ends with 1 if the numbers differ."""
    if not torch.cuda.is_available():
        console.print("expected a GPU that torch can use, got none. Run this where there is one.")
        raise typer.Exit(1)
    cores = os.cpu_count() or 1
    runners = 2 ** min(8, int(math.log2(cores)))
    device = f"{torch.cuda.get_device_name()}, {cores} CPU cores"
    measure.start_ray(cores + 1)
    equal = equality({"num_gpus": 1})
    speeds = [speed("GPU", {}, iterations), speed(f"CPU, {runners} env runners", on_cpus(runners), iterations)]
    for name, rows in (("equality", equal), ("speed", speeds)):
        write_csv(out / f"{name}.csv", [{**row, "machine": device} for row in rows])
        show(f"{device}: {name}", rows)
    if not all(row["equal"] for row in equal):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
