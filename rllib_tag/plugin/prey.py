"""How good agents act when they are part of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch

from rllib_tag.errors import ConfigError
from rllib_tag.nn.weights import load_exported
from rllib_tag.world.tag import Prey


def load_frozen_prey(folder: str | os.PathLike[str], continuous: bool) -> Prey:
    """Prey that acts by exported weights, deterministically.

    Args:
        folder: What `rllib export` wrote of a run with `good_policy: learned`.
        continuous: The environment's kind of actions.

    Returns:
        A function from observations of good agents, (M, ...) by key, to their actions.

    Raises:
        ConfigError: If the weights do not hold one policy that moves good agents, or act in the other kind of actions.
    """
    exported = load_exported(folder)
    prey = exported.prey()
    if len(prey) != 1:
        raise ConfigError(
            f"good_policy: expected weights of one policy that moves good agents in {folder}, got "
            f"{', '.join(sorted(prey)) or 'none'} among {', '.join(exported.nets)}. Use another export."
        )
    net = exported.nets[prey.pop()]
    if net.continuous != continuous:
        kinds = {False: "discrete", True: "continuous"}
        raise ConfigError(
            f"good_policy: expected weights for {kinds[continuous]} actions, "
            f"got {kinds[net.continuous]} ones in {folder}."
        )

    def act(observations: Mapping[str, np.ndarray]) -> np.ndarray:
        batch = {key: torch.from_numpy(value) for key, value in observations.items()}
        with torch.no_grad():
            outputs, _ = net(batch)
        return greedy_actions(outputs, continuous)

    return act


def greedy_actions(outputs: torch.Tensor, continuous: bool) -> np.ndarray:
    """The likeliest actions of action-distribution inputs, as the environment takes them.

    Discrete: the largest logit, (B,) integers. Continuous: RLlib's policies act in [-1, 1] and RLlib
    unsquashes to the space's [0, 1]; so the mean is clipped and mapped alike: (B, n) float32.

    Source: ray.rllib.utils.spaces.space_utils.unsquash_action.
    """
    if not continuous:
        return outputs.argmax(-1).numpy()
    mean = outputs.chunk(2, dim=-1)[0].clamp(-1, 1)
    return ((mean + 1) / 2).numpy()
