"""Applies the command line's options to the experiments of a file."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from rllib_tag.errors import ConfigError, under
from rllib_tag.experiment.checkpoints import find_checkpoint
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.experiment.spec import Specs
from rllib_tag.names import GOOD_POLICIES
from rllib_tag.places import is_uri

DEFAULT_STORAGE = "~/ray_results"
PATHS, NO_PATHS = ("good_policy", "input"), (*GOOD_POLICIES, "sampler")  # keys of paths, and values that are not paths


def apply_options(specs: Specs, options: TrainOptions) -> Specs:
    """Returns specifications in which the command line's options override the file."""
    if options.experiment_name is not None:
        if len(specs) != 1:
            raise ConfigError(
                f"--experiment-name: expected a file with one experiment, got {len(specs)}. Leave the option out."
            )
        specs = {options.experiment_name: next(iter(specs.values()))}
    if options.scheduler_config and options.scheduler is None:
        raise ConfigError("--scheduler-config: expected --scheduler as well, got none. Name the scheduler.")
    out = {}
    for name, spec in specs.items():
        with under(name):
            out[name] = _applied(spec, options)
    return out


def _applied(spec: Mapping[str, Any], options: TrainOptions) -> dict[str, Any]:
    out = copy.deepcopy(dict(spec))
    for key in ("stop", "storage_path", "num_samples", "restore"):
        value = getattr(options, key)
        if value is not None:
            out[key] = {**out.get("stop", {}), **value} if key == "stop" else value
    if options.scheduler is not None:
        arguments = dict(options.scheduler_config or {})
        out |= {key: arguments.pop(key) for key in ("metric", "mode") if key in arguments}
        out["scheduler"] = {"type": options.scheduler, **arguments}
    if out.get("restore"):
        out["restore"] = str(find_checkpoint(out["restore"]))
    out["config"] = _with_absolute_paths(out.get("config", {}))
    storage = out.get("storage_path", DEFAULT_STORAGE)
    out["storage_path"] = storage if is_uri(storage) else os.path.abspath(os.path.expanduser(storage))
    checkpoint: dict[str, Any] = {
        "checkpoint_frequency": options.checkpoint_freq,
        "checkpoint_at_end": options.checkpoint_at_end,
        "num_to_keep": options.keep_checkpoints_num,
    }
    if options.checkpoint_score_attr is not None:
        checkpoint["checkpoint_score_attribute"] = options.checkpoint_score_attr.removeprefix("min-")
        checkpoint["checkpoint_score_order"] = "min" if options.checkpoint_score_attr.startswith("min-") else "max"
    given = {key: value for key, value in checkpoint.items() if value is not None}
    if given:
        out["checkpoint_config"] = {**(out.get("checkpoint_config") or {}), **given}
    return out


def _with_absolute_paths(value: Any, is_path: bool = False) -> Any:
    """Returns a config with absolute paths at any depth, since workers run in other folders."""
    if isinstance(value, dict):
        if is_path and "type" in value:  # what a class gets is its own matter
            return value
        return {key: _with_absolute_paths(inner, is_path or key in PATHS) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_absolute_paths(inner, is_path) for inner in value]
    is_found = is_path and isinstance(value, str) and value not in NO_PATHS and os.path.exists(value)
    return os.path.abspath(value) if is_found else value
