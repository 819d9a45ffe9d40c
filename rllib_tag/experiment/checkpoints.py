"""Finds and reads checkpoints: RLlib's own, and exported weights, which are played without loading Ray."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rllib_tag.errors import ConfigError, did_you_mean
from rllib_tag.experiment.pretrained import PRETRAINED, pretrained_teams
from rllib_tag.files import folders
from rllib_tag.nn.weights import MANIFEST, Exported, load_exported

MOST_TOLD = 3  # trials that a message names


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Returns the checkpoint or export at a path, or the newest checkpoint of the only trial below it.

    Args:
        path: The path, or the name of a team that ships with the package, unless a folder here has this name.

    Raises:
        ConfigError: If there is none, or if there are several trials below the path.
    """
    is_name = str(path) in pretrained_teams() and not os.path.isdir(path)
    folder = Path(PRETRAINED if is_name else "", path).absolute()  # RLlib reads relative paths as URIs
    if folder.name == MANIFEST:
        folder = folder.parent
    if not os.path.isdir(folder):  # unlike `is_dir`, also where the name is too long
        names = pretrained_teams()
        hint = did_you_mean(path, names).rstrip() or "Give a checkpoint's path."
        raise ConfigError(
            f"checkpoint: expected a folder or one of {', '.join(names)}, got {path}, which does not exist. {hint}"
        )
    if (folder / MANIFEST).exists():
        return folder
    from rllib_tag.plugin.ray_internals import RLLIB_MARK

    if (folder / RLLIB_MARK).exists():
        return folder
    below = sorted(found for found in folders(folder) if found.name.startswith("checkpoint_"))
    trials = sorted({found.parent for found in below})
    if not trials:
        raise ConfigError(
            f"checkpoint: expected {RLLIB_MARK} or {MANIFEST} in {folder}, found neither. "
            "The checkpoint is missing or incomplete; use another one."
        )
    if len(trials) > 1:
        paths = ", ".join(map(str, trials[:MOST_TOLD])) + (", …" if len(trials) > MOST_TOLD else "")
        raise ConfigError(
            f"checkpoint: expected one trial below {folder}, got {len(trials)}: {paths}. Give the path of one."
        )
    complete = [found for found in below if is_complete(found)]
    if not complete:
        raise ConfigError(
            f"checkpoint: expected a complete checkpoint below {folder}, found none. Resume training with --resume."
        )
    return complete[-1]


def is_complete(checkpoint: Path) -> bool:
    """Returns whether all files of an RLlib checkpoint exist; each file that exists is complete."""
    from rllib_tag.plugin.ray_internals import (
        ALGORITHM_STATE,
        POLICY_STATE,
        RLLIB_MARK,
        is_complete_on_new_api_stack,
        is_of_new_api_stack,
    )  # fmt: skip

    if is_of_new_api_stack(checkpoint):
        return is_complete_on_new_api_stack(checkpoint)
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
    from rllib_tag.experiment.rllib_checkpoints import read_rllib_checkpoint

    return read_rllib_checkpoint(folder)
