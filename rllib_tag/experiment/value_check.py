"""Checks the values of an RLlib config, or of a part that overrides it: keys, types and class paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.evaluation.collectors.sample_collector import SampleCollector
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from ray.rllib.utils import exploration as explorations
from ray.rllib.utils import replay_buffers
from ray.rllib.utils.exploration.exploration import Exploration

from rllib_tag.errors import ConfigError, check_choice, check_int, check_keys, check_number
from rllib_tag.plugin.class_paths import resolve_subclass
from rllib_tag.plugin.ray_internals import MODEL_DEFAULTS, model_is_registered

OLD_KEYS = {
    "sgd_minibatch_size": "minibatch_size",
    "num_sgd_iter": "num_epochs",
    "num_workers": "num_env_runners",
    "num_rollout_workers": "num_env_runners",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "num_cpus_for_driver": "num_cpus_for_main_process",
    "num_cpus_for_local_worker": "num_cpus_for_main_process",
    "create_env_on_driver": "create_env_on_local_worker",
    "horizon": "env_config: {max_cycles: …}",
    "evaluation_num_episodes": "evaluation_duration",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "ignore_worker_failures": "ignore_env_runner_failures",
    "recreate_failed_workers": "restart_failed_env_runners",
}
SCHEDULED = ("lr", "entropy_coeff")
# Counts that RLlib's own validation divides by, loops over, or takes for granted.
COUNTS = ("num_envs_per_env_runner", "train_batch_size", "minibatch_size", "num_epochs", "rollout_fragment_length")
AUTOMATIC = ("rollout_fragment_length", "evaluation_duration", "evaluation_num_env_runners")  # may be "auto"
# Keys that RLlib renames, and the attributes that it sets for them.
TRANSLATED = {"callbacks": "callbacks_class", "framework": "framework_str", "lambda": "lambda_", "input": "input_"}
# What RLlib builds from the `type` in it: RLlib's own names for that, and the base class.
TYPED: dict[str, tuple[list[str], type]] = {
    "exploration_config": (explorations.__all__, Exploration),
    "replay_buffer_config": (replay_buffers.__all__, replay_buffers.ReplayBuffer),
}


def check_values(what: str, config: Mapping[str, Any], defaults: AlgorithmConfig, below: Mapping[str, Any]) -> None:
    """Checks keys, types of values and class paths, all but what depends on the environment and the model.

    Args:
        what: What the message calls the config.
        config: A config, or a part that overrides one.
        defaults: The algorithm's default config.
        below: The config that a part overrides; a complete config is its own.

    Raises:
        ConfigError: On the first value that does not fit.
    """
    _check_keys(what, config, defaults)
    _check_types(what, config, defaults)
    for key in SCHEDULED:
        schedule = f"{key}_schedule"
        if config.get(schedule) is not None:
            _check_schedule(f"{what}: {schedule}", config[schedule])
        if key in config and {**below, **config}.get(schedule) is not None:
            raise ConfigError(f"{what}: expected {key} or {schedule}, got both; the schedule would win. Remove one.")
    _check_class_paths(what, config)


def _check_keys(what: str, config: Mapping[str, Any], defaults: AlgorithmConfig) -> None:
    for key in config:
        if key in OLD_KEYS:
            raise ConfigError(f"{what}: old key {key!r}: expected {OLD_KEYS[key]}; RLlib would ignore it. Rename it.")
    known = {key for key in vars(defaults) if not key.startswith("_")} - set(TRANSLATED.values())
    check_keys(what, config, known | set(TRANSLATED) | {"multiagent"}, "RLlib would silently ignore it")
    model = config.get("model", {})
    if not isinstance(model, dict):
        raise ConfigError(f"{what}: model: expected a mapping, got {model!r}. Write it as key: value.")
    check_keys(f"{what}: model", model, MODEL_DEFAULTS, "RLlib would silently ignore it")
    if not isinstance(model.get("custom_model_config", {}), dict):
        raise ConfigError(
            f"{what}: model: custom_model_config: expected a mapping, got {model['custom_model_config']!r}. "
            "Write it as key: value."
        )
    env_config = config.get("env_config", {})
    if not isinstance(env_config, dict):
        raise ConfigError(f"{what}: env_config: expected a mapping, got {env_config!r}. Write it as key: value.")
    if config.get("env_runner_cls") is not None:
        raise ConfigError(
            f"{what}: env_runner_cls: expected None, got {config['env_runner_cls']!r}: `rllib train` and backend in "
            "env_config choose the sampler. Leave it out."
        )
    source = config.get("input", "sampler")
    if source != "sampler" and not (isinstance(source, str) and os.path.exists(source)):  # RLlib builds class paths
        raise ConfigError(
            f"{what}: input: expected sampler, or the path of recorded data, got {source!r}. Leave it out to sample."
        )


def _check_types(what: str, config: Mapping[str, Any], defaults: AlgorithmConfig) -> None:
    """Checks that a value has the type of its default, where the default is a plain number or flag."""
    for key, value in config.items():
        if (key in AUTOMATIC and value == "auto") or (key == "grad_clip" and value is None):
            continue
        default = getattr(defaults, TRANSLATED.get(key, key), None)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{what}: {key}: expected true or false, got {value!r}. Write one of the two.")
        elif isinstance(default, (int, float)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                advice = (
                    "YAML reads 1e-3 as text; write 1.0e-3."
                    if isinstance(value, str)
                    else "Write a number, or values to try, such as {choice: [0.9, 0.99]}."
                )
                raise ConfigError(f"{what}: {key}: expected a number, got {value!r}. {advice}")
            if default >= 0 and not value >= 0:
                raise ConfigError(f"{what}: {key}: expected a number of at least 0, got {value!r}. Raise it.")
    for key in COUNTS:
        if key in config and config[key] != "auto":
            check_int(f"{what}: {key}", config[key], 1)
    if config.get("seed") is not None:
        check_int(f"{what}: seed", config["seed"], 0)
    if config.get("grad_clip") is not None:
        check_number(f"{what}: grad_clip", config["grad_clip"], 0)
    for key in ("gamma", "lambda"):
        check_number(f"{what}: {key}", config.get(key, 1), 0, 1)
    batch_modes = ("truncate_episodes", "complete_episodes")
    check_choice(f"{what}: batch_mode", config.get("batch_mode", batch_modes[0]), batch_modes)


def _check_schedule(what: str, points: Any) -> None:
    """Checks a schedule of RLlib: points [agent steps, value], between which RLlib interpolates."""
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not pairs or not points:
        raise ConfigError(f"{what}: expected [[steps, value], …], got {points!r}. Use this form.")
    for i, (steps, value) in enumerate(points):
        check_int(f"{what}: steps", steps, points[i - 1][0] + 1 if i else 0)
        check_number(f"{what}: value", value, 0)


def _check_class_paths(what: str, config: Mapping[str, Any]) -> None:
    if config.get("callbacks") is not None:
        resolve_subclass(f"{what}: callbacks", config["callbacks"], DefaultCallbacks)
    model = config.get("model", {}).get("custom_model")
    if model is not None and not (isinstance(model, str) and model_is_registered(model)):
        resolve_subclass(f"{what}: model: custom_model", model, TorchModelV2)
    if config.get("sample_collector") is not None:
        resolve_subclass(f"{what}: sample_collector", config["sample_collector"], SampleCollector)
    for key, (own, kind) in TYPED.items():
        if config.get(key) is not None:
            _check_typed(f"{what}: {key}", config[key], own, kind)
    checked = (*TYPED, "multiagent", "env_config", "evaluation_config")
    _refuse_types({key: value for key, value in config.items() if key not in checked}, what)


def _check_typed(what: str, given: Any, own: Iterable[str], kind: type) -> None:
    """Checks a mapping whose `type` is one of RLlib's own names or a class path."""
    if not isinstance(given, dict):
        raise ConfigError(f"{what}: expected a mapping, got {given!r}. Write it as key: value.")
    name = given.get("type")
    if isinstance(name, str) and "." not in name:
        check_choice(f"{what}: type", name, sorted(own))
    elif name is not None:
        resolve_subclass(f"{what}: type", name, kind)
    for key, value in given.items():
        if key == "sub_exploration":  # what Curiosity explores with
            _check_typed(f"{what}: {key}", value, own, kind)
        elif key != "type":
            _refuse_types({key: value}, what)


def _refuse_types(value: Any, where: str) -> None:
    """Rejects `type` in all places that are not checked one by one, since RLlib builds whatever it names."""
    if isinstance(value, dict):
        if "type" in value:
            raise ConfigError(f"{where}: expected no 'type' here, got {value['type']!r}. Remove it.")
        for key, inner in value.items():
            _refuse_types(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for inner in value:
            _refuse_types(inner, where)
