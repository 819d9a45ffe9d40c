"""Training through Ray Tune, as any RLlib process would run the same file."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import ray
from ray import tune
from ray.tune import ResumeConfig
from ray.tune.experiment import Trial

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.backend import why_plain
from rllib_tag.experiment.config_check import check_resources, resources_of
from rllib_tag.experiment.experiment import Experiments, check_experiments, check_shape
from rllib_tag.experiment.loggers import logger_callbacks
from rllib_tag.experiment.metrics import whole_name
from rllib_tag.experiment.options import TrainOptions, apply_options
from rllib_tag.experiment.sweeps import (
    SWEEP_KEYS,
    check_population,
    corners,
    scheduler_of,
    search_of,
    with_samplers,
)
from rllib_tag.files import as_json, provenance
from rllib_tag.nn.weights import MANIFEST
from rllib_tag.places import Place
from rllib_tag.plugin.from_exported import ALGORITHMS as FROM_EXPORTED
from rllib_tag.plugin.ray_internals import (
    TUNE_STATE,
    CheckpointConfig,
    SchedulerState,
    trial_error,
    trial_folder,
    without_decisions,
)
from rllib_tag.plugin.runner import TagRunner
from rllib_tag.plugin.team_ppo import TeamPPO
from rllib_tag.results import ITERATION, JSON, env_steps, parse_results
from rllib_tag.training.lock import locked
from rllib_tag.training.preflight import (
    check_architecture,
    check_gpus_here,
    check_new,
    check_resumable,
    check_surroundings,
    cluster_address,
)
from rllib_tag.training.storage import LateDeletion
from rllib_tag.training.watch import OnResult, Watch

INTERRUPTED = "INTERRUPTED"
NOTHING_PLAYED = (
    "env runners: expected environment steps, got none: whenever they played, their processes died. "
    "Look at --verbose 1 for what they print, and at this machine's memory."
)


@dataclasses.dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Args:
        place: The trial's folder with its results and checkpoints.
        status: `TERMINATED`, `ERROR` or `INTERRUPTED`.
        result: RLlib's last result.
        error: The last line of the error, if there was one.
        is_recorded: Whether there is a file of its results, which a user may switch off in Tune.
    """

    place: Place
    status: str
    result: Mapping[str, Any]
    error: str | None
    is_recorded: bool

    @property
    def folder(self) -> Path:
        """The trial's folder, where it is on this machine."""
        return Path(self.place.path)


def train(
    experiments: Experiments, options: TrainOptions, on_result: OnResult, on_note: Callable[[str], None] = print
) -> list[TrialEnd]:
    """Trains every experiment, after everything has been checked.

    Args:
        experiments: Specifications by name, as in an experiment file.
        options: What the command line sets.
        on_result: Called at each iteration with the trial's number and what it varies, such as `2_lr=0.01`, its
            result and its stop criteria.
        on_note: Called with how each experiment samples, before it starts, and with what it waits for, where others use
            the cluster. Default: prints it.

    Returns:
        How each trial ended.

    Raises:
        ConfigError: If something does not fit; nothing has been written then.
    """
    check_shape(experiments)
    experiments = apply_options(experiments, options)
    check_shape(experiments)
    check_experiments(experiments)
    check_surroundings()
    address = _address(options)
    reasons: dict[str, str | None] = {}  # why an experiment is not sampled on arrays
    for name, spec in experiments.items():
        configs = corners(spec.get("config", {}))
        if address == "local":
            check_gpus_here(spec, configs, options.ray_num_gpus)
        if spec.get("restore"):
            check_architecture(Path(spec["restore"]), spec, configs)
        check_population(spec)
        reasons[name] = _why_plain(spec)
        _place(name, spec).check_writable()
    _quiet(options.verbose)
    with contextlib.ExitStack() as held:
        for name, spec in experiments.items():
            held.enter_context(locked(_place(name, spec)))
            if options.resume:
                check_resumable(_place(name, spec), spec)
            else:
                check_new(_place(name, spec))
        return _train(experiments, reasons, options, address, on_result, on_note)


def _train(
    experiments: Experiments,
    reasons: Mapping[str, str | None],
    options: TrainOptions,
    address: str | None,
    on_result: OnResult,
    on_note: Callable[[str], None],
) -> list[TrialEnd]:
    """Trains experiments whose folders this process holds."""
    own_ray = not ray.is_initialized()
    if own_ray:
        _start_ray(options, address)
    try:
        available = ray.cluster_resources()
        for spec in experiments.values():
            for config in corners(spec.get("config", {})):
                check_resources(resources_of(spec["run"], spec["env"], config), available)
        ends: list[TrialEnd] = []
        for name, spec in experiments.items():  # one by one: side by side, all would go into the first one's folder
            ends += _run(name, spec, reasons[name], options, on_result, on_note)
            if any(end.status == INTERRUPTED for end in ends):
                break
        return ends
    finally:
        if own_ray:
            ray.shutdown()


def _address(options: TrainOptions) -> str | None:
    """The address for Ray to start with, unless this process has started it."""
    if options.ray_address is not None:
        return cluster_address(options.ray_address)
    own = (options.ray_num_cpus, options.ray_num_gpus, options.ray_object_store_memory)
    # A cluster that runs already cannot be given sizes.
    return "local" if ray.is_initialized() or any(given is not None for given in own) else cluster_address(None)


def _start_ray(options: TrainOptions, address: str | None) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            num_cpus=options.ray_num_cpus,
            num_gpus=options.ray_num_gpus,
            object_store_memory=options.ray_object_store_memory,
            include_dashboard=False if address == "local" else None,
            log_to_driver=options.verbose > 0,
            logging_level=logging.INFO if options.verbose else logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"ray: expected a cluster that can be used, got: {said} Check the --ray options.") from error
    except OSError as error:
        raise ConfigError(
            f"ray: expected that Ray can write its own files here, got: {error}. Set RAY_TMPDIR and HOME to "
            "folders that can be written, RAY_TMPDIR to one with a short path."
        ) from error
    except SystemExit:  # what Ray's own handler makes of SIGTERM
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process amid Tune's work


def _run(
    name: str,
    spec: Mapping[str, Any],
    reason: str | None,
    options: TrainOptions,
    on_result: OnResult,
    on_note: Callable[[str], None],
) -> list[TrialEnd]:
    sampling = "on arrays" if reason is None else f"plainly, because of {reason}"
    on_note(f"{name}: samples {sampling}")
    exported = bool(spec.get("restore")) and (Path(spec["restore"]) / MANIFEST).exists()
    if exported and not options.resume:
        on_note(f"{name}: starts with exported weights; optimizers and counters begin anew")
    algorithm = (FROM_EXPORTED if exported else {}).get(spec["run"], spec["run"])
    record = _place(name, spec) / f"run_{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    record.write_text(as_json({"experiment": spec, "sampling": sampling, **provenance()}))
    storage = LateDeletion.at(Place.at(spec["storage_path"]))
    ours = ("run", "env", "storage_path", "loggers", *SWEEP_KEYS)
    plain = copy.deepcopy({key: value for key, value in spec.items() if key not in ours})
    plain["config"] = {**with_samplers(plain.get("config", {})), "env": spec["env"]}
    if reason is not None:
        plain["config"]["env_runner_cls"] = TagRunner
    kept = dict(plain.get("checkpoint_config") or {})
    if kept.get("checkpoint_score_attribute") is not None:
        kept["checkpoint_score_attribute"] = whole_name(
            "checkpoint_score_attribute", kept["checkpoint_score_attribute"], spec.get("config", {})
        )
    plain["stop"] = {whole_name("stop", key, spec.get("config", {})): value for key, value in spec["stop"].items()}
    plain["checkpoint_config"] = CheckpointConfig(**kept)
    scheduler = scheduler_of(spec)
    if options.resume:
        experiment = storage / name
        storage.filesystem.handler.delete_left_over(experiment.path)
        state = experiment / max(file for file in experiment.files() if file.startswith(TUNE_STATE))
        state.write_text(without_decisions(state.read_text()))
    with logger_callbacks(spec.get("loggers", {})) as loggers:
        analysis = tune.run(
            TeamPPO if reason is None else algorithm,
            name=name,
            scheduler=scheduler,
            search_alg=search_of(spec),
            resume_config=ResumeConfig(errored=ResumeConfig.ResumeType.RESUME) if options.resume else None,
            verbose=3 if options.verbose else 0,
            callbacks=[Watch(on_result, on_note), SchedulerState(scheduler), *loggers],
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            raise_on_failed_trial=False,
            **plain,
        )
    storage.filesystem.handler.delete_left_over((storage / name).path)
    return [_trial_end(trial, storage) for trial in analysis.trials]


def _why_plain(spec: Mapping[str, Any]) -> str | None:
    """What keeps any of an experiment's variants from being sampled on arrays.

    Raises:
        ConfigError: If another variant demands it.
    """
    configs = corners(spec.get("config", {}))
    reasons = [why_plain(spec["run"], spec["env"], config) for config in configs]
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None and any(config.get("env_config", {}).get("backend") == "batched" for config in configs):
        raise ConfigError(
            f"config: env_config: backend: batched: expected all variants sampled on arrays, got one with {reason}. "
            "An experiment's variants sample alike: put them into two experiments."
        )
    return reason


def _place(name: str, spec: Mapping[str, Any]) -> Place:
    """Where an experiment's results go."""
    return Place.at(spec["storage_path"]) / name


def _quiet(verbose: int) -> None:
    """Keeps Ray's own noise out of ours unless it is asked for."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Before the first episode ends there is no return: a scheduler is to wait for it, and not to end the run.
    # A trial that takes another's weights gets a new process, which is safe and costs seconds.
    warnings.filterwarnings("ignore", message="Consider boosting PBT", category=UserWarning)
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    if verbose == 0:
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        for name in ("ray", "ray.rllib"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # how a trial ended is ours to say
        gymnasium.logger.min_level = gymnasium.logger.ERROR


def _trial_end(trial: Trial, storage: Place) -> TrialEnd:
    result, place = trial.last_result or {}, storage / trial_folder(trial)
    status, error = trial.status, trial_error(trial)
    if status != Trial.ERROR and not result.get("done"):
        status = INTERRUPTED  # Tune calls a trial that it stopped at Ctrl-C terminated, too
    if status == Trial.TERMINATED and not env_steps(result):
        status, error = Trial.ERROR, NOTHING_PLAYED
    here = Path(trial.local_path, JSON)  # what Tune's logger writes, and Tune then copies to the trial's folder
    if status == Trial.TERMINATED and here.exists():
        written, iteration = _last_written(place / JSON), result[ITERATION]
        if written != iteration:  # Tune goes on where it cannot write results
            status = Trial.ERROR
            error = (
                f"{JSON}: expected {iteration} iterations, found {written}: the others could not be written. "
                f"Make room where the results go, and copy {here} there."
            )
    return TrialEnd(place, status, result, error, here.exists())


def _last_written(file: Place) -> int:
    """The last iteration in a trial's file of results; 0 if it is not there."""
    try:
        results = parse_results(file.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: a full disk left no whole line
        return 0
    return int(results[-1][ITERATION]) if results else 0
