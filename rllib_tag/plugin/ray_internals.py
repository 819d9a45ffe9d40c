"""All code that relies on undocumented parts of Ray; `tests/plugin/test_ray_internals.py` fails when they change."""

from __future__ import annotations

import copy
import io
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import ObjectRef, cloudpickle
from ray._private import worker as ray_worker
from ray._private.services import canonicalize_bootstrap_address
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.evaluation.metrics import RolloutMetrics
from ray.rllib.evaluation.rollout_worker import RolloutWorker, get_global_worker
from ray.rllib.execution.rollout_ops import standardize_fields, synchronous_parallel_sample
from ray.rllib.models import MODEL_DEFAULTS
from ray.rllib.policy.policy import Policy, PolicySpec
from ray.rllib.utils.checkpoints import get_checkpoint_info
from ray.rllib.utils.metrics import (
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)
from ray.rllib.utils.metrics.learner_info import LEARNER_STATS_KEY, LearnerInfoBuilder
from ray.rllib.utils.sgd import standardized
from ray.train._internal.session import _FutureTrainingResult
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.registry import ENV_CREATOR, RLLIB_MODEL, _global_registry
from ray.tune.result import TIMESTEPS_TOTAL, TRAINING_ITERATION
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.variant_generator import generate_variants
from ray.util import placement_group_table

try:
    from ray.tune.utils.serialization import _loads_with_cloudpickle as _loads
except ImportError:  # earlier versions always unpickle
    from ray.tune.utils.serialization import TuneFunctionDecoder

    def _loads(state: str) -> Any:
        return json.loads(state, cls=TuneFunctionDecoder)


try:
    from ray.tune import CheckpointConfig
except ImportError:  # before Ray 2.43
    from ray.air import CheckpointConfig

RAY_VERSION = tuple(map(int, ray.__version__.split(".")[:2]))
READS_USE_KL_LOSS = (2, 58)  # from here on, PPO's policies on the old API stack do; before, only `kl_coeff` counts
RLLIB_MARK = "rllib_checkpoint.json"  # in the folder of a checkpoint, and of each policy in it
CTOR_ARGS = "class_and_ctor_args.pkl"  # in each folder of a checkpoint of the new API stack
LEARNER_GROUP = "learner_group"  # folder of a checkpoint of the new API stack
ALGORITHM_STATE, POLICY_STATE = "algorithm_state.pkl", "policy_state.pkl"  # in the same folders
TUNE_STATE = "experiment_state-"  # prefix of the files with Tune's state of an experiment
# Tune warns that a trial which takes over another's weights gets a new process. That is safe and only costs seconds.
PBT_WARNING = "Consider boosting PBT"
FRAME = re.compile(r' +File ".*", line \d+')  # a frame of a traceback

__all__ = [
    "ALGORITHM_STATE",
    "LEARNER_STATS_KEY",
    "MODEL_DEFAULTS",
    "PBT_WARNING",
    "POLICY_STATE",
    "RLLIB_MARK",
    "TUNE_STATE",
    "CheckpointConfig",
    "LearnerInfoBuilder",
    "RolloutMetrics",
    "SchedulerState",
    "algorithm_class",
    "algorithm_defaults",
    "algorithm_names",
    "check_state",
    "checkpoint_counters",
    "checkpoint_env_steps",
    "checkpoint_modules",
    "checkpoint_policies",
    "env_is_registered",
    "episode_history",
    "evaluation_config",
    "forget_weights",
    "is_cluster",
    "is_complete_on_new_api_stack",
    "is_of_new_api_stack",
    "is_waiting",
    "last_checkpoint_metrics",
    "merged_config",
    "model_is_registered",
    "old_learning_states",
    "on_each_runner",
    "own_ray_has_ended",
    "policy_configs",
    "policy_specs",
    "requested_resources",
    "running_cluster",
    "standardize_fields",
    "standardized",
    "state_contains",
    "sub_environment_seed",
    "synchronous_parallel_sample",
    "trial_error",
    "trial_folder",
    "variants",
    "without_decisions",
    "worker_being_built",
]


def worker_being_built() -> Any | None:
    """Returns the rollout worker whose constructor is running in this process, if there is one."""
    worker = get_global_worker()  # the last one constructed, even after its constructor has returned
    return None if hasattr(worker, "weights_seq_no") else worker  # the last attribute that the constructor sets


def algorithm_names() -> list[str]:
    """Returns the valid values of `run:`."""
    return sorted(ALGORITHMS)


def algorithm_defaults(name: str) -> AlgorithmConfig:
    """Returns an algorithm's default config, whose attributes are the known keys."""
    return ALGORITHMS[name]()[1]


def algorithm_class(name: str) -> type[Algorithm]:
    """Returns the class of one of RLlib's algorithms."""
    kind: type[Algorithm] = ALGORITHMS[name]()[0]
    return kind


def merged_config(name: str, config: Mapping[str, Any]) -> AlgorithmConfig:
    """Returns RLlib's defaults with a config merged into them key by key, not yet validated."""
    return algorithm_defaults(name).update_from_dict(copy.deepcopy(dict(config)))


def evaluation_config(config: AlgorithmConfig) -> AlgorithmConfig:
    """Returns the config of RLlib's evaluation workers: a config with its `evaluation_config` merged into it."""
    return config.get_evaluation_config_object()


def policy_configs(config: AlgorithmConfig) -> dict[str, AlgorithmConfig]:
    """Returns the configs that RLlib gives to policies: by name, a config with the policy's own merged into it."""
    if not isinstance(config.policies, dict):
        return dict.fromkeys(config.policies, config)
    return {
        name: config.copy(copy_frozen=False).update_from_dict(copy.deepcopy(spec.config)) if spec.config else config
        for name, spec in policy_specs(config.policies).items()
    }


def policy_specs(policies: Mapping[str, Any]) -> dict[str, PolicySpec]:
    """Returns the specifications of policies, which RLlib also accepts as tuples of their fields."""
    return {name: spec if isinstance(spec, PolicySpec) else PolicySpec(*spec) for name, spec in policies.items()}


def model_is_registered(name: str) -> bool:
    """Whether a name is registered with `ModelCatalog.register_custom_model`."""
    return _global_registry.contains(RLLIB_MODEL, name)


def episode_history(algorithm: Algorithm) -> list[RolloutMetrics]:
    """Returns the episodes of earlier iterations that the means of the next result include."""
    return algorithm._episode_history


def sub_environment_seed(seed: int, worker_index: int, index: int) -> int:
    """Returns the seed that RLlib's default sampler gives to a game.

    Args:
        seed: The seed of the run, as the env runner has it.
        worker_index: The index of the env runner.
        index: The index of the game in the env runner.
    """
    return worker_index * 1000 + index + seed


def checkpoint_policies(
    checkpoint: Path, complete: Callable[[str, PolicySpec, Mapping[str, Mapping[str, np.ndarray]]], None]
) -> dict[str, Policy]:
    """Rebuilds the policies in an RLlib checkpoint, without a GPU, whatever training used.

    Equals `Policy.from_state`, except that a policy's specification can be completed.

    Args:
        checkpoint: The checkpoint's folder.
        complete: Adds what is missing to a policy's specification, given its name and all policies' weights by name.
    """
    names = sorted(get_checkpoint_info(str(checkpoint))["policy_ids"] or ())
    states = {name: _state(checkpoint / "policies" / name) for name in names}
    weights = {name: state["weights"] for name, state in states.items()}
    policies = {}
    for name, state in states.items():
        state["policy_spec"]["config"].update(num_gpus=0, num_gpus_per_env_runner=0)
        spec = PolicySpec.deserialize(state["policy_spec"])
        complete(name, spec, weights)
        policies[name] = spec.policy_class(spec.observation_space, spec.action_space, spec.config)
        policies[name].set_state(state)
    return policies


def is_of_new_api_stack(checkpoint: Path) -> bool:
    """Returns whether an RLlib checkpoint was written on the new API stack."""
    return (checkpoint / LEARNER_GROUP).is_dir()


def is_complete_on_new_api_stack(checkpoint: Path) -> bool:
    """Returns whether all files of a checkpoint of the new API stack exist."""
    learner = checkpoint / LEARNER_GROUP / "learner"
    modules = learner / "rl_module"
    try:
        with open(modules / CTOR_ARGS, "rb") as file:
            _, kwargs = cloudpickle.load(file)["ctor_args_and_kwargs"]
        names = list(kwargs["rl_module_specs"])
    except (OSError, EOFError, KeyError, cloudpickle.pickle.UnpicklingError):
        return False
    states = [checkpoint / "algorithm_state", learner / "state", *(modules / name / "module_state" for name in names)]
    return (checkpoint / CTOR_ARGS).exists() and all(list(each.parent.glob(f"{each.name}.*")) for each in states)


def checkpoint_modules(checkpoint: Path) -> tuple[MultiRLModule, dict[str, Any]]:
    """Returns the modules in a checkpoint of the new API stack, on the CPU, and their run's config."""
    modules = MultiRLModule.from_checkpoint(str(checkpoint / LEARNER_GROUP / "learner" / "rl_module"))
    with open(checkpoint / CTOR_ARGS, "rb") as file:
        (config, *_), _ = cloudpickle.load(file)["ctor_args_and_kwargs"]
    return modules, config


def old_learning_states(checkpoint: Path) -> dict[str, tuple[dict[str, np.ndarray], list[dict[str, Any]]]]:
    """Returns what a checkpoint of the old API stack knows of each policy's learning.

    Returns:
        By policy, the weights by name, and what the optimizer remembers of each parameter, in their order.
    """
    out = {}
    for name in sorted(get_checkpoint_info(str(checkpoint))["policy_ids"] or ()):
        state = _state(checkpoint / "policies" / name)
        (optimizer,) = state["_optimizer_variables"]
        (group,) = optimizer["param_groups"]
        out[name] = state["weights"], [optimizer["state"].get(index, {}) for index in group["params"]]
    return out


def checkpoint_env_steps(checkpoint: Path) -> int:
    """Returns the environment steps sampled in training up to an RLlib checkpoint; 0 if they were not counted."""
    state = _state(checkpoint)
    if is_of_new_api_stack(checkpoint):
        return int(state["metrics_logger"]["stats"][f"env_runners--{NUM_ENV_STEPS_SAMPLED_LIFETIME}"]["lifetime_sum"])
    return int(state["counters"][NUM_ENV_STEPS_SAMPLED])


def checkpoint_counters(checkpoint: Path, config: AlgorithmConfig) -> dict[str, int]:
    """Returns what a run restored from an RLlib checkpoint counts on from, by the names in its results.

    RLlib saves the steps and the iteration, and no times: the seconds of a restored run start at 0.

    Args:
        checkpoint: The checkpoint's folder.
        config: The config of the run that is restored, which says whether RLlib counts the steps of each agent.
    """
    if is_of_new_api_stack(checkpoint):
        steps = checkpoint_env_steps(checkpoint)
        counted = dict.fromkeys((TIMESTEPS_TOTAL, NUM_ENV_STEPS_SAMPLED_LIFETIME, NUM_ENV_STEPS_SAMPLED), steps)
        state = _state(checkpoint)
        prefix = f"env_runners--{NUM_AGENT_STEPS_SAMPLED_LIFETIME}--"
        by_agent = [
            stat["lifetime_sum"] for key, stat in state["metrics_logger"]["stats"].items() if key.startswith(prefix)
        ]
        return {
            TRAINING_ITERATION: int(state[TRAINING_ITERATION]),
            **counted,
            NUM_AGENT_STEPS_SAMPLED: int(sum(by_agent)),
        }
    state = _state(checkpoint)
    of_env, of_agents = (int(state["counters"][name]) for name in (NUM_ENV_STEPS_SAMPLED, NUM_AGENT_STEPS_SAMPLED))
    total = of_agents if config.count_steps_by == "agent_steps" else of_env
    return {
        TRAINING_ITERATION: int(state.get(TRAINING_ITERATION, 0)),
        TIMESTEPS_TOTAL: total,
        NUM_ENV_STEPS_SAMPLED_LIFETIME: total,
        NUM_ENV_STEPS_SAMPLED: of_env,
        NUM_AGENT_STEPS_SAMPLED: of_agents,
    }


def _state(folder: Path) -> dict[str, Any]:
    """Loads the state of an algorithm, or of a policy, in a checkpoint."""
    with open(get_checkpoint_info(str(folder))["state_file"], "rb") as file:
        return cloudpickle.load(file)


def env_is_registered(name: str) -> bool:
    """Whether a name is registered with Tune's `register_env`."""
    return _global_registry.contains(ENV_CREATOR, name)


def variants(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the configs that Tune would run: grids expanded, sampled values drawn once."""
    return [variant["config"] for _, variant in generate_variants({"config": config}, random_state=0)]


def on_each_runner(
    algorithm: Algorithm, function: Callable[[RolloutWorker], Any], local_env_runner: bool = True
) -> list[Any]:
    """Returns a function's result on each env runner that responds: the local one first, unless it is excluded."""
    group = algorithm.env_runner_group
    each = getattr(group, "foreach_env_runner", None) or group.foreach_worker  # the name before Ray 2.41
    return each(function, local_env_runner=local_env_runner)


def forget_weights(runner: Any) -> None:
    """Makes an env runner of the new API stack take the next weights that it gets, even if they are older ones."""
    runner._weights_seq_no = 0


def trial_folder(trial: Trial) -> str:
    """Returns the folder of a trial's results and checkpoints, relative to where Tune stores experiments."""
    return f"{trial.storage.experiment_dir_name}/{trial.storage.trial_dir_name}"


def last_checkpoint_metrics(trial: Trial) -> Mapping[str, Any] | None:
    """Returns the result at which a trial's last checkpoint was written; None if it has none."""
    kept = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
    return None if kept is None else kept.metrics


def requested_resources(trial: Trial) -> dict[str, float]:
    """Returns the resources that a trial requests."""
    return trial.placement_group_factory.required_resources


def is_waiting(trial: Trial) -> bool:
    """Whether Ray has not yet reserved the resources that a trial requests; if it has, the trial may be starting."""
    bundles = [
        {kind: value for kind, value in bundle.items() if value} for bundle in trial.placement_group_factory.bundles
    ]
    return any(
        group["state"] == "PENDING" and list(group["bundles"].values()) == bundles
        for group in placement_group_table().values()
    )


def running_cluster(asked: str | None) -> str | None:
    """Returns where Ray would look for a cluster on this machine, as host:port; None if it would start one.

    Args:
        asked: `auto`, or None if no cluster was requested.

    Raises:
        ConnectionError: If a cluster was requested, and none has ever been started here.
    """
    return canonicalize_bootstrap_address(asked)


def own_ray_has_ended() -> bool:
    """Whether the Ray that this process started is ending: several of its processes have ended, and not just one."""
    node = ray_worker._global_node
    return node is not None and node.head and len(list(node.dead_processes())) > 1


def is_cluster(address: str, timeout_s: float) -> bool:
    """Whether a cluster's head node responds at host:port; runs in a subprocess, which can be stopped on timeout."""
    ask = (
        "import sys; from ray._raylet import GcsClient; "
        "GcsClient(address=sys.argv[1]).internal_kv_get(b'x', namespace=b'x')"
    )
    try:
        asked = subprocess.run([sys.executable, "-c", ask, address], capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def state_contains(state: bytes, path: str) -> bool:
    """Whether Tune's state of an experiment, which stores pickles in hexadecimal, contains the path of a checkpoint."""
    return path.encode().hex().encode() in state


def check_state(state: str) -> None:
    """Reads Tune's state of an experiment as Tune will.

    Raises:
        Exception: Whatever prevents Tune from reading it; Tune itself would silently start the experiment over.
    """
    for trial in _loads(state)["trial_data"]:
        for part in trial:
            _loads(part)


def without_decisions(state: str) -> str:
    """Returns Tune's state of an experiment without the decisions that wait for a checkpoint to be written.

    If the checkpoint of a trial cannot be written, the decision to stop the trial stays in the state. A trial that is
    resumed from such a state ends after its next checkpoint.
    """
    content = json.loads(state)
    content["runner_data"]["_cached_trial_decisions"] = {}
    return json.dumps(content)


def trial_error(trial: Trial) -> str | None:
    """Returns the error that ended a trial, if any: the last exception's name and full message on one line."""
    if not trial.error_file or not Path(trial.error_file).exists():
        return None
    lines = Path(trial.error_file).read_text().splitlines()
    last = max((number for number, line in enumerate(lines) if line.startswith("Failure #")), default=-1)
    lines = lines[last + 1 :]
    frames = [number for number, line in enumerate(lines) if FRAME.match(line)]
    message = lines[frames[-1] + 1 :] if frames else lines
    message = list(itertools.dropwhile(lambda line: line.startswith(" "), message)) or lines[-1:]  # drops its code
    return " ".join(" ".join(message).split()) or None


class SchedulerState(Callback):
    """Saves what a scheduler knows about an experiment's trials with Tune's own state, which lacks it.

    Args:
        scheduler: The scheduler of the experiment.
    """

    def __init__(self, scheduler: TrialScheduler) -> None:
        self._scheduler = scheduler
        self._kept: bytes | None = None

    def get_state(self) -> dict[str, Any]:
        """Returns the scheduler's attributes, in which trials are replaced by their ids."""
        stream = io.BytesIO()
        _Pickler(stream).dump(vars(self._scheduler))
        return {"scheduler": stream.getvalue()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` returned; there are no trials yet."""
        self._kept = state["scheduler"]

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Restores the scheduler's attributes once its trials exist."""
        if self._kept is not None:
            vars(self._scheduler).update(_Unpickler(self._kept, trials).load())
            self._kept = None


class _Pickler(cloudpickle.Pickler):
    def persistent_id(self, obj: Any) -> tuple[str, str] | None:
        if isinstance(obj, Trial):
            return "trial", obj.trial_id
        # A checkpoint that is still being written, for which no other process can wait.
        return ("future", "") if isinstance(obj, (ObjectRef, _FutureTrainingResult)) else None


class _Unpickler(cloudpickle.pickle.Unpickler):
    def __init__(self, kept: bytes, trials: list[Trial]) -> None:
        super().__init__(io.BytesIO(kept))
        self._trials = {trial.trial_id: trial for trial in trials}

    def persistent_load(self, pid: tuple[str, str]) -> Trial | None:
        kind, trial_id = pid
        if kind != "trial":
            return None
        if trial_id not in self._trials:
            # The trial was started after Tune's own state was written, and is started over under another id.
            self._trials[trial_id] = Trial("gone", trial_id=trial_id, stub=True)
            self._trials[trial_id].set_status(Trial.TERMINATED)
        return self._trials[trial_id]
