"""The options of both forms of `rllib train`. This module imports neither Ray nor torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def option(*names: str, help: str, default: Any = None, is_json: bool = False) -> Any:
    """Declares a dataclass field that the command line sets.

    Args:
        names: The option's names.
        help: Its text in `--help`.
        default: The field's value if the option is not given. Default: None.
        is_json: Whether it is a mapping, written as JSON. Default: False.
    """
    return dataclasses.field(default=default, metadata={"names": names, "help": help, "is_json": is_json})


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The options of `rllib train`. Each field's help says what it sets; None keeps the file's value."""

    stop: Mapping[str, float] | None = option(
        "--stop", "-s", help="Stop criteria as JSON, e.g. '{\"timesteps_total\": 100000}'.", is_json=True
    )
    experiment_name: str | None = option(
        "--experiment-name", "-n", help="Name of the experiment and of its folder in the storage path."
    )
    storage_path: str | None = option(
        "--storage-path", "--local-dir", help="Folder or URI for results. [default: ~/ray_results]"
    )
    num_samples: int | None = option("--num-samples", help="Number of trials of each variant.")
    checkpoint_freq: int | None = option("--checkpoint-freq", help="Iterations between checkpoints.")
    checkpoint_at_end: bool | None = option(
        "--checkpoint-at-end/--no-checkpoint-at-end", help="Write a checkpoint at the end of training."
    )
    keep_checkpoints_num: int | None = option("--keep-checkpoints-num", help="Number of checkpoints to keep.")
    checkpoint_score_attr: str | None = option(
        "--checkpoint-score-attr",
        help="Metric that ranks the checkpoints to keep; with the prefix 'min-', lowest first.",
    )
    restore: str | None = option(
        "--restore", help="Checkpoint or exported weights to start from; a checkpoint's counters continue."
    )
    resume: bool = option(
        "--resume", help="Resume an interrupted experiment; repeat its file and options.", default=False
    )
    scheduler: str | None = option("--scheduler", help="Trial scheduler: fifo, asha, median_stopping or pbt.")
    scheduler_config: Mapping[str, Any] | None = option(
        "--scheduler-config", help="The scheduler's arguments as JSON; may include metric and mode.", is_json=True
    )
    ray_address: str | None = option(
        "--ray-address", help="Cluster to connect to. [default: a running one, or else a new local one]"
    )
    ray_num_cpus: int | None = option("--ray-num-cpus", help="Number of CPUs of a local cluster.")
    ray_num_gpus: int | None = option("--ray-num-gpus", help="Number of GPUs of a local cluster.")
    ray_object_store_memory: int | None = option(
        "--ray-object-store-memory", help="Object store of a local cluster, in bytes."
    )
    log_info: bool = option("-v", "--log-info", help="Also show Ray's log at level INFO.", default=False)
    log_debug: bool = option("-vv", "--log-debug", help="Also show Ray's log at level DEBUG.", default=False)

    @property
    def verbose(self) -> int:
        """0 shows progress only, 1 also Ray's log at level INFO, 2 at level DEBUG."""
        return 2 if self.log_debug else int(self.log_info)
