"""The options of both forms of `rllib train`; opens without Ray or torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def option(*names: str, help: str, default: Any = None, is_json: bool = False) -> Any:
    """A dataclass's field that the command line sets.

    Args:
        names: What the option is called there.
        help: What its `--help` says of it.
        default: The field's value where it is not given. Default: None.
        is_json: Whether it is a mapping, which is written as JSON. Default: no.
    """
    return dataclasses.field(default=default, metadata={"names": names, "help": help, "is_json": is_json})


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What the command line may set, as each field's help says; None leaves what the file says."""

    stop: Mapping[str, float] | None = option(
        "--stop", "-s", help="Stop criteria as JSON, e.g. '{\"timesteps_total\": 100000}'.", is_json=True
    )
    experiment_name: str | None = option("--experiment-name", "-n", help="Folder of the results in the storage path.")
    storage_path: str | None = option(
        "--storage-path", "--local-dir", help="Folder or URI for results. [default: ~/ray_results]"
    )
    num_samples: int | None = option("--num-samples", help="Trials of each variant.")
    checkpoint_freq: int | None = option("--checkpoint-freq", help="Iterations between checkpoints.")
    checkpoint_at_end: bool | None = option(
        "--checkpoint-at-end/--no-checkpoint-at-end", help="Keep a checkpoint of the end."
    )
    keep_checkpoints_num: int | None = option("--keep-checkpoints-num", help="Checkpoints to keep.")
    checkpoint_score_attr: str | None = option(
        "--checkpoint-score-attr", help="Metric by which to keep; 'min-' in front keeps the lowest."
    )
    restore: str | None = option("--restore", help="Checkpoint, or exported weights, to start from.")
    resume: bool = option("--resume", help="Go on with an interrupted experiment of the same name.", default=False)
    scheduler: str | None = option("--scheduler", help="fifo, asha, median_stopping or pbt.")
    scheduler_config: Mapping[str, Any] | None = option(
        "--scheduler-config", help="The scheduler's arguments as JSON; metric and mode may be among them.", is_json=True
    )
    ray_address: str | None = option("--ray-address", help="Cluster to connect to; none starts a local one.")
    ray_num_cpus: int | None = option("--ray-num-cpus", help="CPUs of a local cluster.")
    ray_num_gpus: int | None = option("--ray-num-gpus", help="GPUs of a local cluster.")
    ray_object_store_memory: int | None = option(
        "--ray-object-store-memory", help="Bytes of a local cluster's object store."
    )
    log_info: bool = option("-v", "--log-info", help="Show Ray's information too.", default=False)
    log_debug: bool = option("-vv", "--log-debug", help="Show Ray's debugging too.", default=False)

    @property
    def verbose(self) -> int:
        """0 shows progress, 1 Ray's information too, 2 its debugging."""
        return 2 if self.log_debug else int(self.log_info)
