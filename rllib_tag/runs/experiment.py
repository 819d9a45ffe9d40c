"""Experiment files: read safely, checked whole before any worker starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rllib_tag.errors import ConfigError, check_int, check_keys
from rllib_tag.plugin.ray_internals import variants
from rllib_tag.runs.config_check import check_config

Experiments = dict[str, dict[str, Any]]

SPEC_KEYS = (
    "run", "env", "stop", "config", "num_samples", "time_budget_s", "storage_path", "checkpoint_config",
    "resources_per_trial", "max_failures", "restore", "export_formats", "sync_config",
)  # fmt: skip
CHECKPOINT_KEYS = (
    "checkpoint_at_end", "checkpoint_frequency", "num_to_keep", "checkpoint_score_attribute", "checkpoint_score_order",
)  # fmt: skip
OLD_SPEC_KEYS = {
    "local_dir": "storage_path",
    "checkpoint_freq": "checkpoint_config: {checkpoint_frequency: …}",
    "checkpoint_at_end": "checkpoint_config: {checkpoint_at_end: …}",
    "keep_checkpoints_num": "checkpoint_config: {num_to_keep: …}",
    "checkpoint_score_attr": "checkpoint_config: {checkpoint_score_attribute: …}",
}
# Tune's own stop metrics; others are paths into RLlib's result.
STOP_METRICS = (
    "timesteps_total", "training_iteration", "time_total_s", "episodes_total", "num_env_steps_sampled_lifetime",
    "num_env_steps_sampled", "num_agent_steps_sampled",
)  # fmt: skip
STOP_TREES = ("env_runners/", "info/", "counters/", "timers/", "evaluation/")


def load_experiments(path: str | os.PathLike[str]) -> Experiments:
    """Reads an experiment file, safely: YAML tags build nothing.

    Args:
        path: A YAML file that maps experiment names to specifications.

    Raises:
        ConfigError: If the file is missing, is not YAML, or is not such a mapping.
    """
    try:
        text = Path(path).read_text()
        experiments = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"experiment file: cannot read {path}: {error}.") from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"experiment file {path}: expected plain YAML, got: {where}") from error
    if not isinstance(experiments, dict) or not experiments:
        raise ConfigError(f"experiment file {path}: expected a mapping of experiment names, got {experiments!r}.")
    for name, spec in experiments.items():
        if not isinstance(name, str) or not isinstance(spec, dict):
            raise ConfigError(f"experiment file {path}: expected a name and a mapping, got {name!r}: {spec!r}.")
    return experiments


def check_experiments(experiments: Experiments) -> None:
    """Checks every variant of every experiment: keys, values, class paths, team, model.

    Raises:
        ConfigError: On the first thing that does not fit.
    """
    for name, spec in experiments.items():
        try:
            _check_spec(spec)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error


def _check_spec(spec: Mapping[str, Any]) -> None:
    for old, new in OLD_SPEC_KEYS.items():
        if old in spec:
            raise ConfigError(f"old key {old!r}: expected {new}. Rename it.")
    check_keys("experiment", spec, SPEC_KEYS)
    for key in ("run", "env"):
        if not isinstance(spec.get(key), str):
            raise ConfigError(f"{key}: expected a name or an import path, got {spec.get(key)!r}. Add `{key}:`.")
    _check_stop(spec.get("stop"))
    _check_checkpoint_config(spec.get("checkpoint_config"))
    config = spec.get("config", {})
    if not isinstance(config, dict):
        raise ConfigError(f"config: expected a mapping, got {config!r}.")
    _refuse_eval(config, "config")
    for variant in variants(config):
        check_config(spec["run"], spec["env"], variant)


def _check_stop(stop: Any) -> None:
    if not isinstance(stop, dict) or not stop:
        raise ConfigError(
            f"stop: expected a mapping such as {{timesteps_total: 100000}}, got {stop!r}. "
            "Without it, training never ends."
        )
    for key, value in stop.items():
        if not (isinstance(key, str) and key.startswith(STOP_TREES)):
            check_keys("stop", [key], STOP_METRICS)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ConfigError(f"stop: {key}: expected a number above 0, got {value!r}.")


def _check_checkpoint_config(config: Any) -> None:
    if config is None:
        return
    if not isinstance(config, dict):
        raise ConfigError(f"checkpoint_config: expected a mapping, got {config!r}.")
    check_keys("checkpoint_config", config, CHECKPOINT_KEYS)
    if config.get("checkpoint_frequency") is not None:
        check_int("checkpoint_config: checkpoint_frequency", config["checkpoint_frequency"], 0)
    if config.get("num_to_keep") is not None:
        check_int("checkpoint_config: num_to_keep", config["num_to_keep"], 1)


def _refuse_eval(value: Any, where: str) -> None:
    """Tune would run the text under an `eval` key as Python."""
    if isinstance(value, dict):
        if "eval" in value:
            raise ConfigError(
                f"{where}: expected plain values, got an 'eval' key, which Tune would run as code. Remove it."
            )
        for key, inner in value.items():
            _refuse_eval(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for inner in value:
            _refuse_eval(inner, where)
