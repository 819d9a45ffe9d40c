"""Checks what a run needs around it: GPUs, a cluster, a checkpoint that fits, a run to resume."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.metrics import NUM_AGENT_STEPS_SAMPLED
from ray.tune.result import TIMESTEPS_TOTAL

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.checkpoints import read_checkpoint
from rllib_tag.experiment.experiment import Experiment
from rllib_tag.experiment.team_check import comm_config
from rllib_tag.experiment.variant import Variant, View
from rllib_tag.files import as_json
from rllib_tag.nn.config import ARCHITECTURE
from rllib_tag.nn.weights import MANIFEST, Net
from rllib_tag.places import Place
from rllib_tag.plugin.env_config import read_env_config
from rllib_tag.plugin.ray_internals import (
    check_state,
    checkpoint_counters,
    is_cluster,
    is_of_new_api_stack,
    running_cluster,
)
from rllib_tag.results import flat
from rllib_tag.training.storage import newest_state

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 4.0, 11.0
CLIENT_PORT = "10001"
MOST_TOLD = 3  # differing values that a message names
MOST_IDLE = 0.95  # of a run's steps, at which its learning rate may already be 0
SETTINGS = b"\x04"
# How an HTTP/2 connection, which Ray's gRPC uses, begins: the other side answers with its settings.
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)


def cluster_address(asked: str | None) -> str | None:
    """Returns the address to start Ray with: a cluster that answers, `local`, or None for the one that Ray finds here.

    Ray itself would try for minutes to reach a cluster that does not answer, and then end the process.

    Args:
        asked: The address on the command line. If None, `RAY_ADDRESS` counts, and after it the cluster that was last
            started on this machine, if it still answers.

    Raises:
        ConfigError: If a cluster was asked for and does not answer.
    """
    source, address = "--ray-address", asked
    if asked in (None, "auto") and os.environ.get("RAY_ADDRESS"):
        source, address = "RAY_ADDRESS", os.environ["RAY_ADDRESS"]
    if address == "local":
        return address
    try:
        found = running_cluster(address) if address in (None, "auto") else address
    except ConnectionError as error:
        raise ConfigError(
            f"{source}: expected a cluster on this machine, found none. Start one with `ray start --head`."
        ) from error
    if found is None:
        return "local"
    reason = _unreachable_reason(found)
    if reason is None and found == address and "://" not in found and not is_cluster(found, ANSWER_TIMEOUT_S):
        reason = "what listens there is not Ray, or another version of it"
    if reason is None:
        return address
    if address is None:  # left behind by a cluster that is gone
        return "local"
    raise ConfigError(
        f"{source}: expected a cluster at {found}, found none ({reason}). Start one, correct the address or leave it "
        "out."
    )


def _unreachable_reason(address: str) -> str | None:
    """Returns why there is no cluster, or server for Ray clients, at an address; None if there seems to be one."""
    client = address.startswith("ray://")
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if client and not host:
        host, port = port, CLIENT_PORT
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return None
            connection.sendall(HTTP2)
            frame = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, OverflowError, ValueError) as error:
        return str(error)
    return None if frame[3:4] == SETTINGS else "what listens there is not Ray"


def check_surroundings() -> None:
    """Rejects environment variables at which Ray would fail once the run has started.

    Raises:
        ConfigError: If a variable is set that only older versions of Ray support.
    """
    for name in ("TUNE_RESULT_DIR", "RAY_AIR_LOCAL_CACHE_DIR"):
        if name in os.environ:
            raise ConfigError(
                f"{name}: expected it to be unset, as Ray no longer supports it, got {os.environ[name]}. Unset it, and "
                "choose the results folder with --storage-path."
            )


def check_resources(asked: Mapping[str, float], available: Mapping[str, float]) -> None:
    """Raises if a trial requests more than there is: it would wait forever, or silently do without.

    Args:
        asked: What a trial requests, CPUs and GPUs included.
        available: CPUs and GPUs of this machine or cluster.

    Raises:
        ConfigError: If it requests more than there is.
    """
    for kind, advice in (
        ("GPU", "Set num_gpus: 0 and num_gpus_per_env_runner: 0 to train on the CPU"),
        ("CPU", "Lower num_env_runners, num_cpus_per_env_runner or num_cpus_for_main_process"),
    ):
        if asked.get(kind, 0) > available.get(kind, 0):
            raise ConfigError(
                f"config: expected a trial that requests at most the {available.get(kind, 0):g} {kind}s that are here, "
                f"got {asked[kind]:g}. {advice}."
            )


def check_gpus_here(experiment: Experiment, limit: int | None) -> None:
    """Raises if a trial requests more GPUs than this machine has, or than `limit`.

    Raises:
        ConfigError: If one does.
    """
    gpus = torch.cuda.device_count()
    here = {"GPU": gpus if limit is None else min(gpus, limit), "CPU": math.inf}
    for variant in experiment.variants:
        check_resources(variant.resources, here)


def check_new(place: Place) -> None:
    """Raises if a place already holds an experiment: its trials would be mistaken for those of the new one.

    Raises:
        ConfigError: If it does.
    """
    if newest_state(place) is not None:
        raise ConfigError(
            f"train: expected a new folder, got {place.location}, which already holds an experiment. Continue it with "
            "--resume and the same options, give another --experiment-name or --storage-path, or remove it."
        )


def check_resumable(experiment: Experiment) -> None:
    """Raises unless an experiment was started before, with the same specification.

    Tune resumes what it stored, whatever it is given now, and starts over if it cannot read that.

    Raises:
        ConfigError: If it was not, or with another specification, or by a version whose state Tune cannot read.
    """
    place, spec = experiment.place, experiment.spec
    state = newest_state(place)
    if state is None:
        raise ConfigError(
            f"--resume: expected an experiment started before in {place.location}, found none. "
            "Give its --storage-path and name, or leave --resume out."
        )
    records = [name for name in place.files() if name.startswith("run_") and name.endswith(".json")]
    now = json.loads(as_json(spec))
    before = json.loads((place / records[-1]).read_text())["experiment"] if records else now
    # The storage path may differ, since the folder may have been moved.
    changed = [key for key in sorted({*before, *now} - {"storage_path"}) if before.get(key) != now.get(key)]
    if changed:
        raise ConfigError(
            f"--resume: expected the experiment as it was started, got another {', '.join(changed)}"
            f"{_differences(before, now)}. Use the same file and options, or start a new run from its checkpoint with "
            "--restore."
        )
    try:
        check_state(state.read_text())
    except Exception as error:  # a pickle of another version may raise anything
        raise ConfigError(
            f"--resume: expected a state that Tune can read in {state.location}, got {type(error).__name__}: "
            f"{str(error).rstrip('.')}. Resume with the versions of rllib_tag and Ray that wrote it, or start a new "
            "run from its checkpoint with --restore."
        ) from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns in which values two specifications differ, as the end of a sentence; empty if in no single value."""
    old, new = ({key: repr(value) for key, value in flat(spec).items()} for spec in (before, now))
    keys = [key for key in {**old, **new} if key != "storage_path" and old.get(key) != new.get(key)]
    told = [
        f"{key.replace('/', ': ')}: {new.get(key, 'nothing')} instead of {old.get(key, 'nothing')}"
        for key in keys[:MOST_TOLD]
    ]
    told += [f"{len(keys) - MOST_TOLD} more"] if len(keys) > MOST_TOLD else []
    return f" ({'; '.join(told)})" if told else ""


def check_goes_on(experiment: Experiment, checkpoint: Path) -> None:
    """Raises if a run that starts from a checkpoint would be over after one iteration, or could not learn.

    The counters of an RLlib checkpoint continue: a run restored at 1,000 steps stops at 3,000 after 2,000 more.

    Args:
        experiment: The experiment.
        checkpoint: The checkpoint, or exported weights, which have no counters.

    Raises:
        ConfigError: If a counter in the checkpoint has already reached a stop criterion, or the end of a learning-rate
            schedule that ends at 0.
    """
    if (checkpoint / MANIFEST).exists() or experiment.starts_over:
        return
    for variant in experiment.variants:
        counters = checkpoint_counters(checkpoint, variant.training.config)
        for key, limit in experiment.stop.items():
            if counters.get(key, -math.inf) >= limit:
                raise ConfigError(
                    f"{experiment.name}: stop: expected {key} above {counters[key]:,}, the count in {checkpoint} from "
                    f"which the run continues, got {limit:,}. Set a larger one, such as "
                    f"--stop '{{\"{key}\": {counters[key] + limit}}}'."
                )
        steps, end = counters[NUM_AGENT_STEPS_SAMPLED], idle_from(variant.training)
        if end is not None and steps >= end:
            raise ConfigError(
                f"{experiment.name}: config: lr_schedule: expected a learning rate above 0 after {steps:,} agent "
                f"steps, the count in {checkpoint} from which the run continues, got one that is 0 from {end:,} on. "
                "End it later, or start from exported weights, with which steps count from 0."
            )


def idle_from(view: View) -> int | None:
    """Returns the agent steps after which no policy learns any more, by its learning-rate schedule; None if some do."""
    learning = view.config.policies_to_train
    ends = [_zero_from(policy) for name, policy in view.policies.items() if learning is None or name in learning]
    return None if None in ends or not ends else max(end for end in ends if end is not None)


def _zero_from(config: AlgorithmConfig) -> int | None:
    """Returns the agent steps after which a learning-rate schedule stays at 0; None if it does not."""
    end = None
    for step, rate in config.lr_schedule or []:
        end = None if rate else int(step) if end is None else end
    return end


def idle_notes(experiment: Experiment) -> Iterator[str]:
    """Yields what to say of schedules that end at 0 long before the run does."""
    stop = experiment.stop.get(TIMESTEPS_TOTAL, 0)
    for view in (variant.training for variant in experiment.variants):
        end = idle_from(view)
        if end is None or view.comm is None or view.config.count_steps_by == "agent_steps":
            continue
        game = read_env_config(view.config.env_config).game
        agents = len(game.acting)
        if not game.layout.varies and end / agents < MOST_IDLE * stop:
            yield (
                f"lr_schedule is 0 from {end:,} agent steps on, so nothing is learned in the last "
                f"{stop - end // agents:,} of {stop:,} env steps, of {agents} agent steps each"
            )


def check_architecture(checkpoint: Path, variants: Iterable[Variant]) -> None:
    """Raises if a checkpoint, or exported weights, have another model or team than a variant.

    Raises:
        ConfigError: If they do, or are incomplete.
    """
    nets = read_checkpoint(checkpoint).nets
    for variant in variants:
        if is_of_new_api_stack(checkpoint) and not variant.new_api_stack:
            raise ConfigError(
                f"{checkpoint}: expected a checkpoint of RLlib's old API stack, as this run is for, got one of the new "
                "one. Start from its weights, which `rllib export` writes, or set both enable_* flags to true."
            )
        _check_architecture(variant.training, nets, str(checkpoint))


def _check_architecture(view: View, nets: Mapping[str, Net], source: str) -> None:
    if set(view.policies) != set(nets):
        raise ConfigError(
            f"{source}: expected policies {sorted(view.policies)}, got {sorted(nets)}. Use another checkpoint."
        )
    env_config = read_env_config(view.config.env_config)
    for name, net in nets.items():
        comm = comm_config(f"config: multiagent: policies: {name}", view.policies[name])
        trained, asked = ({key: getattr(each, key) for key in ARCHITECTURE} for each in (net.config, comm))
        if trained != asked:
            other = [key for key in ARCHITECTURE if trained[key] != asked[key]]
            expected, got = (
                ", ".join(f"{key}: {'null' if each[key] is None else each[key]}" for key in other)
                for each in (asked, trained)
            )
            raise ConfigError(
                f"{source}: expected the configured architecture of {name} ({expected}), got {got}. Write {got} in "
                "custom_model_config, or use another checkpoint."
            )
        if net.critic is None:
            raise ConfigError(
                f"{source}: expected critics, which training needs, got only the acting weights of {name}. Add "
                f"{name}.critic.safetensors."
            )
        agents = env_config.game.classes.get(name, ())
        env_config.check_actions(f"{source}: {name}", agents, net.num_outputs, net.continuous)
