"""Trains experiments with Ray Tune, as any RLlib process would run the same file."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import ray
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune import ResumeConfig
from ray.tune.experiment import Trial

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import Experiment, parse_experiments
from rllib_tag.experiment.loggers import logger_callbacks
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.experiment.sampled import with_samplers
from rllib_tag.experiment.spec import Specs
from rllib_tag.experiment.sweeps import scheduler_of, search_of
from rllib_tag.files import as_json, provenance
from rllib_tag.nn.weights import MANIFEST
from rllib_tag.places import Place
from rllib_tag.plugin.old_api_stack.from_exported import ALGORITHMS as FROM_EXPORTED
from rllib_tag.plugin.old_api_stack.runner import TagRunner
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPO
from rllib_tag.plugin.ray_internals import (
    PBT_WARNING,
    CheckpointConfig,
    SchedulerState,
    last_checkpoint_metrics,
    own_ray_has_ended,
    trial_error,
    trial_folder,
    without_decisions,
)
from rllib_tag.results import ITERATION, JSON, env_steps, parse_results
from rllib_tag.training.lock import locked
from rllib_tag.training.preflight import (
    check_architecture,
    check_goes_on,
    check_gpus_here,
    check_new,
    check_resources,
    check_resumable,
    check_surroundings,
    cluster_address,
    idle_notes,
)
from rllib_tag.training.storage import LateDeletion, newest_state
from rllib_tag.training.watch import OnResult, Watch

INTERRUPTED = "INTERRUPTED"
RAY_ENDS_S = 0.5  # after a signal; it takes 0.1 s on an idle machine
NOTHING_PLAYED = (
    "env runners: expected environment steps, got none: their processes died whenever they sampled. "
    "Check their output with -v, and this machine's memory."
)


@dataclasses.dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Args:
        place: The trial's folder, with its results and checkpoints.
        status: `TERMINATED`, `ERROR` or `INTERRUPTED`.
        result: RLlib's last result.
        error: The last line of the error, if there was one.
        is_recorded: Whether it has a file of results, which Tune lets users switch off.
        is_new: Whether this run trained it; if not, it had ended before the run was resumed.
        checkpoint_steps: The environment steps at its last checkpoint; None if it has none.
    """

    place: Place
    status: str
    result: Mapping[str, Any]
    error: str | None
    is_recorded: bool
    is_new: bool
    checkpoint_steps: int | None

    @property
    def folder(self) -> Path:
        """The trial's folder, if it is on this machine."""
        return Path(self.place.path)


def train(
    specs: Specs,
    options: TrainOptions,
    on_result: OnResult,
    on_note: Callable[[str], None] = print,
    on_start: Callable[[Experiment], None] | None = None,
) -> list[TrialEnd]:
    """Checks all experiments, then trains them one after another.

    Args:
        specs: Specifications by name, as in an experiment file.
        options: What the command line sets.
        on_result: Called at each iteration with the trial's number and varied values, such as `2_lr=0.01`, its
            result and its stop criteria.
        on_note: Called with each experiment's sampler before it starts, and with the resources that it waits for when
            others use the cluster. Default: print.
        on_start: Called with each experiment before its first note. Default: nothing.

    Returns:
        How each trial ended.

    Raises:
        ConfigError: If anything does not fit; in that case, nothing is written.
    """
    _quiet(options.verbose)
    experiments = parse_experiments(specs, options)
    check_surroundings()
    address = _address(options)
    for experiment in experiments:
        if address == "local":
            check_gpus_here(experiment, options.ray_num_gpus)
        if experiment.restored is not None:
            check_architecture(experiment.restored, experiment.variants)
            if not options.resume:
                check_goes_on(experiment, experiment.restored)
        experiment.place.check_writable()
    with contextlib.ExitStack() as held:
        for experiment in experiments:
            held.enter_context(locked(experiment.place))
            if options.resume:
                check_resumable(experiment)
            else:
                check_new(experiment.place)
        return _train(experiments, options, address, on_result, on_note, on_start)


def _train(
    experiments: Sequence[Experiment],
    options: TrainOptions,
    address: str | None,
    on_result: OnResult,
    on_note: Callable[[str], None],
    on_start: Callable[[Experiment], None] | None,
) -> list[TrialEnd]:
    """Trains experiments whose folders this process has locked."""
    owns_ray = not ray.is_initialized()
    if owns_ray:
        _start_ray(options, address)
    try:
        available = ray.cluster_resources()
        for experiment in experiments:
            for variant in experiment.variants:
                check_resources(variant.resources, available)
        ends: list[TrialEnd] = []
        for experiment in experiments:  # one at a time: Tune would put parallel ones into the first one's folder
            if on_start:
                on_start(experiment)
            ends += _run(experiment, options, on_result, on_note)
            if any(end.status == INTERRUPTED for end in ends):
                break
        return ends
    finally:
        if owns_ray:
            ray.shutdown()


def _address(options: TrainOptions) -> str | None:
    """Returns the address to start Ray with; not used if this process has already started it."""
    if options.ray_address is not None:
        return cluster_address(options.ray_address)
    own = (options.ray_num_cpus, options.ray_num_gpus, options.ray_object_store_memory)
    # Only a new cluster can be given sizes.
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
            logging_level=(logging.ERROR, logging.INFO, logging.DEBUG)[options.verbose],
        )
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"ray: expected a usable cluster, got: {said} Check the --ray options.") from error
    except OSError as error:
        raise ConfigError(
            f"ray: expected writable folders for Ray's own files, got: {error}. Set RAY_TMPDIR and HOME to such "
            "folders, RAY_TMPDIR to one with a short path."
        ) from error
    except SystemExit:  # from Ray's own handler of SIGTERM
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process while Tune works


def _run(
    experiment: Experiment, options: TrainOptions, on_result: OnResult, on_note: Callable[[str], None]
) -> list[TrialEnd]:
    name, spec, reason = experiment.name, experiment.spec, experiment.default_sampler_reason
    sampler = "the batched sampler" if reason is None else f"RLlib's default sampler, because of {reason}"
    on_note(f"{name}: uses {sampler}")
    for note in dict.fromkeys(idle_notes(experiment)):
        on_note(f"{name}: {note}")
    is_exported = experiment.restored is not None and (experiment.restored / MANIFEST).exists()
    if is_exported and not options.resume:
        on_note(f"{name}: starts from exported weights, with new optimizers and counters")
    elif experiment.restored is not None and not options.resume and experiment.starts_over:
        on_note(f"{name}: starts from weights and optimizers of RLlib's old API stack, and counts its steps from 0")
    record = experiment.place / f"run_{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    record.write_text(as_json({"experiment": spec, "sampling": sampler, **provenance()}))
    algorithm, runner = _algorithm(experiment, is_exported)
    config = {**with_samplers(spec.get("config", {})), "env": spec["env"]}
    if runner is not None:
        config["env_runner_cls"] = runner
    state = newest_state(experiment.place)
    if state is not None:  # the run is resumed
        state.write_text(without_decisions(state.read_text()))
    scheduler, storage = scheduler_of(spec), LateDeletion.at(experiment.storage)
    watch = Watch(on_result, on_note)
    with logger_callbacks(spec.get("loggers", {})) as loggers:
        analysis = tune.run(
            algorithm,
            name=name,
            config=config,
            stop=dict(experiment.stop),
            checkpoint_config=CheckpointConfig(**experiment.checkpoint_config),
            scheduler=scheduler,
            search_alg=search_of(spec),
            resume_config=ResumeConfig(errored=ResumeConfig.ResumeType.RESUME) if options.resume else None,
            verbose=3 if options.verbose else 0,
            callbacks=[watch, SchedulerState(scheduler), *loggers],
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            raise_on_failed_trial=False,
            **{key: spec[key] for key in ("num_samples", "max_failures", "restore") if key in spec},
        )
    storage.filesystem.handler.delete_left_over((storage / name).path)
    return [_trial_end(trial, experiment.storage, trial.trial_id in watch.reported) for trial in analysis.trials]


def _algorithm(experiment: Experiment, is_exported: bool) -> tuple[type[Algorithm] | str, type | None]:
    """Returns an experiment's algorithm, and its env runner if that is not the algorithm's own.

    Args:
        experiment: The experiment.
        is_exported: Whether it starts from exported weights.
    """
    run, on_arrays = experiment.spec["run"], experiment.default_sampler_reason is None
    if experiment.variants[0].new_api_stack:
        from rllib_tag.plugin.new_api_stack.runner import GuardedEnvRunner  # these need a newer Ray than the rest
        from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPO as NewTeamPPO

        return NewTeamPPO, None if on_arrays else GuardedEnvRunner
    if on_arrays:
        return TeamPPO, None
    return FROM_EXPORTED[run] if is_exported and run in FROM_EXPORTED else run, TagRunner


def ray_ends() -> bool:
    """Returns whether the Ray that this process started ends within `RAY_ENDS_S`, as after a signal to both."""
    deadline = time.monotonic() + RAY_ENDS_S
    while not own_ray_has_ended():
        if not ray.is_initialized() or time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _quiet(verbose: int) -> None:
    """Silences Ray's own output unless the user asks for it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    warnings.filterwarnings("ignore", message=PBT_WARNING, category=UserWarning)
    # There is no return before the first episode ends: a scheduler must wait for it, and not end the run.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    if verbose == 0:
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\.")  # tips for later versions of Ray
        for name in ("ray", "ray.rllib"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # we say ourselves how a trial ended
        gymnasium.logger.min_level = gymnasium.logger.ERROR


def _trial_end(trial: Trial, storage: Place, is_new: bool = True) -> TrialEnd:
    result, place = trial.last_result or {}, storage / trial_folder(trial)
    status, error = trial.status, trial_error(trial)
    if status != Trial.ERROR and not result.get("done"):
        status = INTERRUPTED  # Tune also calls a trial terminated that it stopped at Ctrl-C
    if status == Trial.TERMINATED and not env_steps(result):
        status, error = Trial.ERROR, NOTHING_PLAYED
    here = Path(trial.local_path, JSON)  # written by Tune's logger, then copied by Tune to the trial's folder
    if status == Trial.TERMINATED and here.exists():
        written, iteration = _last_written(place / JSON), result[ITERATION]
        if written != iteration:  # Tune carries on when it cannot write results
            status = Trial.ERROR
            error = (
                f"{JSON}: expected {iteration} iterations, found {written}: the others could not be written. "
                f"Free some space in the results folder, and copy {here} there."
            )
    kept = last_checkpoint_metrics(trial)
    is_recorded = here.exists() or JSON in place.files()
    return TrialEnd(place, status, result, error, is_recorded, is_new, None if kept is None else env_steps(kept))


def _last_written(file: Place) -> int:
    """Returns the last iteration in a trial's file of results; 0 if there is no such file."""
    try:
        results = parse_results(file.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: a full disk left no complete line
        return 0
    return int(results[-1][ITERATION]) if results else 0
