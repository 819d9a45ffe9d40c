"""The options that commands share, as typer reads them."""

from __future__ import annotations

from typing import Annotated

import typer

Stop = Annotated[
    str | None, typer.Option("--stop", "-s", help="Stop criteria as JSON, e.g. '{\"timesteps_total\": 100000}'.")
]
Name = Annotated[str | None, typer.Option("--experiment-name", "-n", help="Folder of the results in the storage path.")]
Storage = Annotated[
    str | None,
    typer.Option("--storage-path", "--local-dir", help="Folder or URI for results. [default: ~/ray_results]"),
]
Samples = Annotated[int | None, typer.Option("--num-samples", help="Trials of each variant.")]
Freq = Annotated[int | None, typer.Option("--checkpoint-freq", help="Iterations between checkpoints.")]
AtEnd = Annotated[
    bool | None, typer.Option("--checkpoint-at-end/--no-checkpoint-at-end", help="Keep a checkpoint of the end.")
]
Keep = Annotated[int | None, typer.Option("--keep-checkpoints-num", help="Checkpoints to keep.")]
Score = Annotated[
    str | None,
    typer.Option("--checkpoint-score-attr", help="Metric by which to keep; 'min-' in front keeps the lowest."),
]
Restore = Annotated[str | None, typer.Option("--restore", help="Checkpoint, or exported weights, to start from.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted experiment of the same name.")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="fifo, asha, median_stopping or pbt.")]
SchedulerConfig = Annotated[str, typer.Option("--scheduler-config", help="The scheduler's arguments as JSON.")]
Address = Annotated[str | None, typer.Option("--ray-address", help="Cluster to connect to; none starts a local one.")]
Cpus = Annotated[int | None, typer.Option("--ray-num-cpus", help="CPUs of a local cluster.")]
Gpus = Annotated[int | None, typer.Option("--ray-num-gpus", help="GPUs of a local cluster.")]
Memory = Annotated[
    int | None, typer.Option("--ray-object-store-memory", help="Bytes of a local cluster's object store.")
]
Verbose = Annotated[bool, typer.Option("-v", "--log-info", help="Show Ray's information too.")]
Debug = Annotated[bool, typer.Option("-vv", "--log-debug", help="Show Ray's debugging too.")]

Checkpoint = Annotated[str, typer.Argument(help="RLlib checkpoint, exported weights, or the folder of a trial.")]
Team = Annotated[
    str | None,
    typer.Argument(
        help="RLlib checkpoint, exported weights, or the folder of a trial. "
        "[default: the team that ships with rllib_tag]",
        show_default=False,
    ),
]
Episodes = Annotated[int, typer.Option("--episodes", help="Seeded episodes to play.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first episode; the others follow.")]
ClassA = Annotated[int | None, typer.Option("--num-class-a", help="Class A adversaries. [default: as trained]")]
ClassB = Annotated[int | None, typer.Option("--num-class-b", help="Class B adversaries. [default: as trained]")]
NumGood = Annotated[int | None, typer.Option("--num-good", help="Good agents. [default: as trained]")]
Obstacles = Annotated[int | None, typer.Option("--num-obstacles", help="Landmarks. [default: as trained]")]
Range = Annotated[
    float | None, typer.Option("--comm-range", help="Range of links; 0 cuts them, inf links all. [default: as trained]")
]
GoodPolicy = Annotated[
    str | None,
    typer.Option("--good-policy", help="Prey: random, evasive, learned or exported weights. [default: as trained]"),
]
Stochastic = Annotated[bool, typer.Option("--stochastic", help="Sample actions instead of taking the likeliest.")]
Yardsticks = Annotated[
    list[str] | None, typer.Option("--yardstick", help="Play this too: random, class_b_chases or all_chase.")
]
