"""Learned communication between heterogeneous agents on RLlib: MPE `simple_tag`, transformer, graph attention."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_LAZY = {
    "TagEnv": "rllib_tag.plugin.env",
    "CommEnv": "rllib_tag.plugin.env",
    "Game": "rllib_tag.world.game",
    "Prey": "rllib_tag.world.prey",
    "ClassView": "rllib_tag.world.layout",
    "CommModel": "rllib_tag.plugin.old_api_stack.model",
    "CommModule": "rllib_tag.plugin.new_api_stack.module",
    "CommConfig": "rllib_tag.nn.config",
    "SimpleTagVec": "rllib_tag.world.simulator",
    "ClassPolicyMapping": "rllib_tag.plugin.mapping",
    "TeamPPOConfig": "rllib_tag.plugin.new_api_stack.team_ppo",
    "TagCallbacks": "rllib_tag.plugin.callbacks",
    "evaluate": "rllib_tag.playing.evaluate",
    "restore": "rllib_tag.playing.restore",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Imports a public name on first access, so that importing `rllib_tag.report` does not import Ray."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
