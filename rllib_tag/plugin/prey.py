"""Frozen prey: good agents that are part of the environment and act by exported weights."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch

from rllib_tag.errors import ConfigError
from rllib_tag.nn.weights import load_exported
from rllib_tag.world.tag import Prey


def load_frozen_prey(folder: str | os.PathLike[str], continuous: bool) -> Prey:
    """Loads prey that acts by exported weights, deterministically.

    Args:
        folder: The folder that `rllib export` wrote for a run with `good_policy: learned`.
        continuous: Whether the environment's actions are continuous.

    Returns:
        A function that maps observations of good agents, (M, ...) by key, to their actions.

    Raises:
        ConfigError: If the export does not contain one policy that controls good agents, or if that policy has the
            other kind of actions.
    """
    exported = load_exported(folder)
    prey = exported.prey()
    if len(prey) != 1:
        raise ConfigError(
            f"good_policy: expected weights of one policy that controls good agents in {folder}, got "
            f"{', '.join(sorted(prey)) or 'none'} among {', '.join(exported.nets)}. Use another export."
        )
    net = exported.nets[prey.pop()]
    if net.continuous != continuous:
        kinds = {False: "discrete", True: "continuous"}
        raise ConfigError(
            f"good_policy: expected weights for {kinds[continuous]} actions, "
            f"got {kinds[net.continuous]} ones in {folder}. Use another export."
        )

    def act(observations: Mapping[str, np.ndarray]) -> np.ndarray:
        batch = {key: torch.from_numpy(value) for key, value in observations.items()}
        with torch.no_grad():
            outputs, _ = net(batch)
        return greedy_actions(outputs, continuous)

    return act


def greedy_actions(outputs: torch.Tensor, continuous: bool) -> np.ndarray:
    """Returns the likeliest actions, given action-distribution inputs, in the environment's format.

    Discrete: the index of the largest logit, (B,) integers. Continuous: RLlib's policies act in [-1, 1], and RLlib
    unsquashes actions to the space's [0, 1]; the mean is clipped and mapped in the same way: (B, n) float32.

    Source: ray.rllib.utils.spaces.space_utils.unsquash_action.
    """
    if not continuous:
        return outputs.argmax(-1).numpy()
    mean = outputs.chunk(2, dim=-1)[0].clamp(-1, 1)
    return ((mean + 1) / 2).numpy()
