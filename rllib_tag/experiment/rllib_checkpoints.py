"""Reads RLlib's own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.rllib.policy.policy import Policy, PolicySpec

from rllib_tag.errors import ConfigError, raised
from rllib_tag.nn.config import DEFAULTS_OF_0_1
from rllib_tag.nn.network import AdversaryNet, GoodNet
from rllib_tag.nn.weights import Exported
from rllib_tag.plugin.env_config import groups_of, read_env_config
from rllib_tag.plugin.mapping import acting_policies
from rllib_tag.plugin.ray_internals import (
    checkpoint_env_steps,
    checkpoint_modules,
    checkpoint_policies,
    is_of_new_api_stack,
)
from rllib_tag.plugin.spaces import MessageSpace


def read_rllib_checkpoint(folder: Path) -> Exported:
    """Returns what an export of an RLlib checkpoint would contain.

    Raises:
        ConfigError: If it is incomplete, or its model is not `CommModel`, or `CommModule` on the new API stack.
    """
    if is_of_new_api_stack(folder):
        try:
            modules, config = checkpoint_modules(folder)
        except Exception as error:  # a damaged pickle may raise anything
            raise _unreadable_error(folder, error) from error
        models: dict[str, Any] = dict(modules.items())
    else:
        policies = load_policies(folder)
        models = {name: policy.model for name, policy in policies.items()}
        config = next(iter(policies.values())).config
    nets = {}
    for name, model in models.items():
        if not isinstance(getattr(model, "net", None), AdversaryNet | GoodNet):
            raise ConfigError(
                f"checkpoint {folder}: expected policies with rllib_tag.CommModel, got {type(model).__name__}. "
                "Use another checkpoint."
            )
        nets[name] = model.net.cpu().eval()
    env_config, seed, mapping = dict(config["env_config"]), config["seed"], config["policy_mapping_fn"]
    groups = groups_of(env_config)
    game = SimpleNamespace(possible_agents=groups, group_of=groups)
    try:
        acting = acting_policies(SimpleNamespace(policy_mapping_fn=mapping), game)
    except Exception as error:  # a custom mapping may raise anything
        raise ConfigError(
            f"checkpoint {folder}: expected a policy for each of {', '.join(groups)} from its policy_mapping_fn, got "
            f"{raised(error)}. Correct the mapping."
        ) from error
    # Policies that no agent acts by, such as old opponents, are left out.
    nets = {name: net for name, net in nets.items() if name in acting.values()}
    return Exported(nets, env_config, seed, _env_steps(folder), None if acting == groups else acting)


def load_policies(folder: Path) -> dict[str, Policy]:
    """Loads RLlib's own policies from an RLlib checkpoint.

    Raises:
        ConfigError: If the checkpoint is truncated, or its weights do not fit its model.
    """
    try:
        policies = checkpoint_policies(folder, _complete)
    except Exception as error:  # a damaged pickle may raise anything
        raise _unreadable_error(folder, error) from error
    if not policies:
        raise ConfigError(f"checkpoint {folder}: expected policies in it, got none. It is incomplete; use another one.")
    return policies


def _complete(name: str, spec: PolicySpec, weights: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Adds the layout of messages, which RLlib does not save, and the values of keys that the run left to defaults.

    The defaults have changed, but whether an encoder is shared and where messages are placed shows in the weights.
    """
    env_config, model = spec.config["env_config"], spec.config["model"]
    if "game" in env_config:
        read = read_env_config(env_config)
        known = MessageSpace(len(read.game.team), read.history_length, read.game.layout)
        spec.observation_space.original_space.spaces["messages"] = known
    encoders = {
        policy: {key: value for key, value in each.items() if key.startswith("net.encoder.")}
        for policy, each in weights.items()
        if any(key.startswith("net.encoder.graph.") for key in each)
    }
    own = encoders.pop(name, {})
    found = {}
    if any(".convs." in key for key in own):
        found["frame"] = "receiver" if any(".placement." in key for key in own) else "absolute"
    if encoders and own:
        found["encoder"] = "shared" if any(_equal(own, other) for other in encoders.values()) else "class"
    elif found.get("frame") == DEFAULTS_OF_0_1["frame"]:  # alone, sharing makes no difference
        found["encoder"] = DEFAULTS_OF_0_1["encoder"]
    model["custom_model_config"] = {**found, **model["custom_model_config"]}


def _equal(weights: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    return weights.keys() == others.keys() and all(np.array_equal(weights[key], others[key]) for key in weights)


def _unreadable_error(folder: Path, error: Exception) -> ConfigError:
    """Returns what is wrong: the game of the checkpoint, a module that it needs, or the checkpoint itself."""
    if isinstance(error, ConfigError):
        return ConfigError(f"checkpoint {folder}: {error}")
    if isinstance(error, ModuleNotFoundError):
        return ConfigError(
            f"checkpoint {folder}: expected the modules that it needs, got: {error}. Install the package, or put the "
            "folder of the module on PYTHONPATH; if there is no such module, the checkpoint is damaged or from another "
            "version."
        )
    return ConfigError(
        f"checkpoint {folder}: expected a complete RLlib checkpoint, got {type(error).__name__}: "
        f"{str(error).rstrip('.')}. It is truncated, damaged or from another version; use another one."
    )


def _env_steps(folder: Path) -> int | None:
    """Returns the environment steps sampled before a checkpoint, by RLlib's own count; None if it has no count.

    Raises:
        ConfigError: If the checkpoint is truncated.
    """
    try:
        return checkpoint_env_steps(folder) or None
    except Exception as error:  # a damaged pickle may raise anything
        raise _unreadable_error(folder, error) from error
