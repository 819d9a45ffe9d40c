"""Finds and reads checkpoints: RLlib's own, and exported weights."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
from ray.rllib.policy.policy import Policy

from rllib_tag.errors import ConfigError
from rllib_tag.files import folders
from rllib_tag.nn.weights import MANIFEST, Exported, load_exported
from rllib_tag.plugin.env_config import TagEnvConfig, read_env_config
from rllib_tag.plugin.mapping import acting_policies
from rllib_tag.plugin.old_api_stack.model import CommModel
from rllib_tag.plugin.ray_internals import (
    ALGORITHM_STATE,
    POLICY_STATE,
    RLLIB_MARK,
    checkpoint_env_steps,
    checkpoint_policies,
)
from rllib_tag.plugin.spaces import MessageSpace
from rllib_tag.world.roster import Roster

COUNTS = [field.name for field in dataclasses.fields(Roster)]


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Returns the checkpoint or export at a path, or the newest checkpoint of the only trial below it.

    Raises:
        ConfigError: If there is none, or if there are several trials below the path.
    """
    folder = Path(path).absolute()  # RLlib reads relative paths as URIs
    if folder.name == MANIFEST:
        folder = folder.parent
    if not os.path.isdir(folder):  # unlike `is_dir`, also where the name is too long
        raise ConfigError(f"checkpoint: expected a folder, got {path}, which does not exist. Give a checkpoint's path.")
    if (folder / MANIFEST).exists() or (folder / RLLIB_MARK).exists():
        return folder
    below = sorted(found for found in folders(folder) if found.name.startswith("checkpoint_"))
    trials = sorted({found.parent for found in below})
    if not trials:
        raise ConfigError(
            f"checkpoint: expected {RLLIB_MARK} or {MANIFEST} in {folder}, found neither. "
            "The checkpoint is missing or incomplete; use another one."
        )
    if len(trials) > 1:
        names = ", ".join(trial.name for trial in trials)
        raise ConfigError(
            f"checkpoint: expected one trial below {folder}, got {len(trials)}: {names}. Give the path of one."
        )
    complete = [found for found in below if is_complete(found)]
    if not complete:
        raise ConfigError(
            f"checkpoint: expected a complete checkpoint below {folder}, found none. Resume training with --resume."
        )
    return complete[-1]


def is_complete(checkpoint: Path) -> bool:
    """Returns whether all files of an RLlib checkpoint exist; each file that exists is complete."""
    try:
        policies = list(json.loads((checkpoint / RLLIB_MARK).read_text())["policy_ids"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    needed = [checkpoint / ALGORITHM_STATE]
    for policy in policies:
        needed += [checkpoint / "policies" / policy / name for name in (RLLIB_MARK, POLICY_STATE)]
    return all(file.exists() for file in needed)


def read_checkpoint(folder: Path) -> Exported:
    """Returns the contents of an export, read from it or made from a checkpoint.

    Args:
        folder: The checkpoint or export that `find_checkpoint` returns.

    Raises:
        ConfigError: If it is incomplete, or its model is not `CommModel`.
    """
    if (folder / MANIFEST).exists():
        return load_exported(folder)
    policies = load_policies(folder)
    nets = {}
    for name, policy in policies.items():
        if not isinstance(policy.model, CommModel):
            raise ConfigError(
                f"checkpoint {folder}: expected policies with rllib_tag.CommModel, got {type(policy.model).__name__}. "
                "Use another checkpoint."
            )
        nets[name] = policy.model.net.cpu().eval()
        env_config, seed = dict(policy.config["env_config"]), policy.config["seed"]
        mapping = policy.config["policy_mapping_fn"]
    groups = groups_of(env_config)
    game = SimpleNamespace(possible_agents=groups, group_of=groups)
    try:
        acting = acting_policies(SimpleNamespace(policy_mapping_fn=mapping), game)
    except Exception as error:  # a custom mapping may raise anything
        raise ConfigError(
            f"checkpoint {folder}: expected a policy for each of {', '.join(groups)} from its policy_mapping_fn, got "
            f"{type(error).__name__}: {error}. Correct the mapping."
        ) from error
    nets = {
        name: net for name, net in nets.items() if name in acting.values()
    }  # drops unused ones, such as old opponents
    return Exported(nets, env_config, seed, _env_steps(folder), None if acting == groups else acting)


def load_policies(folder: Path) -> dict[str, Policy]:
    """Loads RLlib's own policies from an RLlib checkpoint.

    Raises:
        ConfigError: If the checkpoint is truncated, or its weights do not fit its model.
    """
    try:
        policies = checkpoint_policies(folder, _with_layout)
    except Exception as error:  # a damaged pickle may raise anything
        raise _incomplete_error(folder, error) from error
    if not policies:
        raise ConfigError(f"checkpoint {folder}: expected policies in it, got none. It is incomplete; use another one.")
    return policies


def _with_layout(space: gym.Space, config: Mapping[str, Any]) -> gym.Space:
    """Returns a policy's observation space with the layout of its messages, which RLlib does not save."""
    if "game" in config["env_config"]:
        env_config = read_env_config(config["env_config"])
        game = env_config.game
        known = MessageSpace(len(game.team), env_config.history_length, game.layout)
        space.original_space.spaces["messages"] = known
    return space


def _incomplete_error(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"checkpoint {folder}: expected a complete RLlib checkpoint, got {type(error).__name__}: {error}. "
        "It is truncated, damaged or from another version; use another one."
    )


def _env_steps(folder: Path) -> int | None:
    """Returns the environment steps sampled before a checkpoint, by RLlib's own count; None if it has no count.

    Raises:
        ConfigError: If the checkpoint is truncated.
    """
    try:
        return checkpoint_env_steps(folder) or None
    except Exception as error:  # a damaged pickle may raise anything
        raise _incomplete_error(folder, error) from error


def groups_of(env_config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the class of each agent that a policy controls. For tag, only the counts have to be valid."""
    if "game" in env_config:
        game = read_env_config(env_config).game
        return {agent: game.group_of[agent] for agent in game.acting}
    counts = {field.name: field.default for field in dataclasses.fields(TagEnvConfig) if field.name in COUNTS}
    roster = Roster(**{name: env_config.get(name, default) for name, default in counts.items()})
    acting = (*roster.adversaries, *(roster.good_agents if env_config.get("good_policy") == "learned" else ()))
    return {agent: roster.group_of[agent] for agent in acting}
