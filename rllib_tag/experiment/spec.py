"""Reads experiment files safely and checks their shape."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rllib_tag.errors import ConfigError, check_int, check_keys, under
from rllib_tag.places import is_uri

Specs = dict[str, dict[str, Any]]  # experiments by name, as a file states them

NAME = re.compile(r"[\w.-]*\w[\w.-]*")
SPEC_KEYS = (
    "run", "env", "stop", "config", "num_samples", "storage_path", "checkpoint_config", "max_failures",
    "restore", "metric", "mode", "scheduler", "search", "loggers",
)  # fmt: skip
OLD_SPEC_KEYS = {
    "local_dir": "storage_path",
    "time_budget_s": "stop: {time_total_s: …}, the training time of a trial",
    "checkpoint_freq": "checkpoint_config: {checkpoint_frequency: …}",
    "checkpoint_at_end": "checkpoint_config: {checkpoint_at_end: …}",
    "keep_checkpoints_num": "checkpoint_config: {num_to_keep: …}",
    "checkpoint_score_attr": "checkpoint_config: {checkpoint_score_attribute: …}",
}


def load_experiments(path: str | os.PathLike[str]) -> Specs:
    """Reads an experiment file safely: YAML tags cannot create objects.

    Args:
        path: A YAML file that maps experiment names to specifications.

    Raises:
        ConfigError: If the file is missing, is not YAML, or is not such a mapping.
    """
    try:
        experiments = yaml.load(Path(path).read_text(), _UniqueKeyLoader)
        json.dumps(experiments, default=str)  # fails on a value that contains itself
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"experiment file: cannot read {path}: {error}. Check the path.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"experiment file {path}: expected plain YAML, got: {_said(error)}. Edit the file."
        ) from error
    if not isinstance(experiments, dict) or not experiments:
        raise ConfigError(
            f"experiment file {path}: expected a mapping of experiment names, got {experiments!r}. "
            f"Begin with a name, as in tag_ppo: {{env: …, run: PPO}}."
        )
    for name, spec in experiments.items():
        if not isinstance(name, str) or not isinstance(spec, dict):
            raise ConfigError(
                f"experiment file {path}: expected a name and a mapping, got {name!r}: {spec!r}. Write both."
            )
    return experiments


def _said(error: Exception) -> str:
    """Returns what is wrong with a YAML file, on one line, with the line and column."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.reason}, at position {error.position}"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark, context = error.problem_mark, f" {error.context}" if error.context else ""
    return f"{error.problem}{context}, in line {mark.line + 1}, column {mark.column + 1}"


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, except that a duplicate key is an error instead of silently replacing the first."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # before merge keys (`<<`) add keys that may be overridden
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def check_shape(specs: Specs) -> None:
    """Checks everything around the configs: keys, types of values, and that nothing is code that Tune would run.

    Raises:
        ConfigError: On the first value that does not fit.
    """
    for name, spec in specs.items():
        with under(name):
            if not NAME.fullmatch(name):
                raise ConfigError(f"name: expected letters, digits, '.', '_' and '-', got {name!r}. Rename it.")
            _refuse_eval(spec, "experiment")
            _check_spec_shape(spec)


def _check_spec_shape(spec: Mapping[str, Any]) -> None:
    for old, new in OLD_SPEC_KEYS.items():
        if old in spec:
            raise ConfigError(f"old key {old!r}: expected {new}. Rename it.")
    check_keys("experiment", spec, SPEC_KEYS)
    for key in ("run", "env"):
        if not isinstance(spec.get(key), str):
            raise ConfigError(f"{key}: expected a name or an import path, got {spec.get(key)!r}. Add `{key}:`.")
    if not isinstance(spec.get("storage_path", ""), str):
        raise ConfigError(f"storage_path: expected a path or a URI, got {spec['storage_path']!r}. Write it as text.")
    if not isinstance(spec.get("restore", ""), str) or is_uri(spec.get("restore", "")):
        raise ConfigError(f"restore: expected a local path, got {spec['restore']!r}. Copy the checkpoint to one.")
    for key, minimum in (("num_samples", 1), ("max_failures", 0)):
        if key in spec:
            check_int(key, spec[key], minimum)
    for key in ("config", "checkpoint_config", "stop"):
        if not isinstance(spec.get(key, {}), dict):
            raise ConfigError(f"{key}: expected a mapping, got {spec[key]!r}. Write it as key: value.")


def _refuse_eval(value: Any, where: str) -> None:
    """Rejects `eval` keys, whose text Tune would run as Python code."""
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
