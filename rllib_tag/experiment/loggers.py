"""Logging to Weights & Biases and MLflow, by one key of the experiment file. TensorBoard files need no key."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ray.tune import Callback

from rllib_tag.errors import ConfigError, check_choice, check_keys

MODES = ("online", "offline", "disabled")
WANDB_MODE = "WANDB_MODE"
# Secrets would be saved with the results. Tune uploads checkpoints to W&B only from its own file systems.
LEFT_OUT = {"kwargs", "api_key", "tracking_token", "upload_checkpoints", "save_checkpoints"}
LOGGERS = ("wandb", "mlflow")


def check_loggers(given: Any) -> None:
    """Checks an experiment's `loggers`: the arguments of Tune's own callbacks, by the logger's name.

    Raises:
        ConfigError: If there is no such logger or argument, or its package is not installed.
    """
    if not isinstance(given, Mapping) or not all(isinstance(value, Mapping) for value in given.values()):
        raise ConfigError(
            f"loggers: expected a mapping such as {{wandb: {{project: tag}}}}, got {given!r}. "
            "Name a logger and its arguments."
        )
    check_keys("loggers", given, LOGGERS)
    for name, arguments in given.items():
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"loggers: {name}: expected {name} to be installed, found none. Run pip install 'rllib_tag[{name}]'."
            )
        check_keys(f"loggers: {name}", arguments, _known(name))
    if "wandb" in given:
        check_choice("loggers: wandb: mode", given["wandb"].get("mode", "online"), MODES)
        project = given["wandb"].get("project", "")
        if not isinstance(project, str):
            raise ConfigError(f"loggers: wandb: project: expected a name, got {project!r}. Name the W&B project.")
        with logger_callbacks({"wandb": given["wandb"]}) as (wandb,):
            try:
                wandb.setup()  # looks for the project and the key, also in W&B's environment variables
            except (ValueError, OSError) as error:
                raise ConfigError(
                    f"loggers: wandb: expected a project, and a key unless mode is offline, got: {error}. "
                    "Give project, and run `wandb login`."
                ) from error


@contextlib.contextmanager
def logger_callbacks(given: Mapping[str, Mapping[str, Any]]) -> Iterator[list[Callback]]:
    """Yields Tune's callbacks for checked `loggers`."""
    before = os.environ.get(WANDB_MODE)
    # Tune would restart the W&B run of a resumed trial, under the same id.
    defaults: dict[str, dict[str, Any]] = {"wandb": {"resume": "allow"}}
    if "mode" in given.get("wandb", {}):
        os.environ[WANDB_MODE] = given["wandb"]["mode"]  # Tune looks here when it decides whether it needs a key
    try:
        yield [_class(name)(**{**defaults.get(name, {}), **arguments}) for name, arguments in given.items()]
    finally:
        os.environ.pop(WANDB_MODE, None)
        if before is not None:
            os.environ[WANDB_MODE] = before


def _class(name: str) -> type[Callback]:
    if name == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        return WandbLoggerCallback
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback


def _known(name: str) -> set[str]:
    """Returns the arguments that a logger takes. W&B's logger passes further ones on to `wandb.init`."""
    known = set(inspect.signature(_class(name)).parameters)
    if name == "wandb":
        import wandb

        known |= set(inspect.signature(wandb.init).parameters)
    return known - LEFT_OUT
