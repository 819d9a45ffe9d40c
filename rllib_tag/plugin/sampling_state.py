"""What the next samples of an env runner depend on, and RLlib's checkpoints lack."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray import cloudpickle as pickle

from rllib_tag.plugin.fragments import GamePlayer

FORMAT = 2  # raise it whenever running games or their views get other attributes


def sampling_state(player: GamePlayer | None, kind: Any) -> bytes:
    """Returns running games and random states.

    Args:
        player: What plays the games; None if there are none.
        kind: What games they are.
    """
    games = player.state() if player is not None and player.games.world.can_be_saved else None
    return pickle.dumps({"format": FORMAT, "kind": kind, "games": games, "random": random_states()})


def set_sampling_state(player: GamePlayer | None, kind: Any, state: bytes | None) -> str | None:
    """Continues from a `sampling_state`, unless it is that of different games.

    Args:
        player: What plays the games; None if there are none.
        kind: What games they are.
        state: The state; None if there is none.

    Returns:
        Why sampling does not continue exactly; None if it does.
    """
    if state is None:
        return "was down when the checkpoint was written; its games start over"
    try:
        loaded = pickle.loads(state)
    except (ImportError, AttributeError):
        loaded = {}
    if loaded.get("format") != FORMAT:
        return "cannot read its games in the checkpoint, saved by another version of rllib_tag; they start over"
    if loaded["kind"] != kind:
        return "plays different games than when the checkpoint was written; they start over"
    if loaded["games"] is None:
        return None if player is None else "plays games that cannot be saved; they start over"
    assert player is not None
    player.set_state(loaded["games"])
    if not set_random_states(loaded["random"]):
        return "has a different number of GPUs than when the checkpoint was written; their random states start over"
    return None


def random_states() -> dict[str, Any]:
    """Returns the states of this process's random generators."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> bool:
    """Restores what `random_states` returned, but for GPUs only if their number is the same; returns whether it is."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    same_gpus = len(states["cuda"]) == torch.cuda.device_count()
    if same_gpus:
        torch.cuda.set_rng_state_all(states["cuda"])
    return same_gpus
