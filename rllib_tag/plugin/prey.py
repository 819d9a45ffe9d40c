"""Good agents that are part of the environment and act by exported weights, or by a script of a user's own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rllib_tag.errors import ConfigError
from rllib_tag.nn.weights import load_exported
from rllib_tag.plugin.class_paths import built
from rllib_tag.world.game import Arrays
from rllib_tag.world.prey import Prey

NUM_ACTIONS = 5


def load_frozen_prey(folder: str | os.PathLike[str], continuous: bool) -> Callable[[Arrays], np.ndarray]:
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


@dataclasses.dataclass(frozen=True)
class OwnPrey:
    """A script, whose actions are checked.

    Args:
        prey: The script.
        continuous: Whether the environment's actions are continuous.
    """

    prey: Prey
    continuous: bool

    def __call__(self, observations: Arrays) -> np.ndarray:
        """Returns the actions of M good agents.

        Raises:
            ValueError: If they are not actions of the game.
        """
        actions = np.asarray(self.prey.act(observations))
        count = len(observations["own"])
        shape = (count, NUM_ACTIONS) if self.continuous else (count,)
        highest, kind = (1, "numbers") if self.continuous else (NUM_ACTIONS - 1, "integers")
        is_kind = np.issubdtype(actions.dtype, np.number if self.continuous else np.integer)
        if actions.shape != shape or not is_kind:
            got = f"{actions.dtype} of shape {actions.shape}"
        else:
            wrong = actions[~((actions >= 0) & (actions <= highest))]
            if not wrong.size:
                return actions
            got = str(wrong[0])
        raise ValueError(
            f"{type(self.prey).__name__}.act: expected {kind} from 0 to {highest} of shape {shape}, got {got}."
        )


def load_own_prey(entry: Mapping[str, Any], continuous: bool) -> OwnPrey:
    """Builds the script that an entry names.

    Args:
        entry: The import path of a `Prey` under `type`, and the arguments of its constructor.
        continuous: Whether the environment's actions are continuous.

    Raises:
        ConfigError: If the path does not name a `Prey`, or if it cannot be built.
    """
    return OwnPrey(built("good_policy", entry, Prey, "a script"), continuous)


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
