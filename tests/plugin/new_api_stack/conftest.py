"""Small algorithms in this process, on RLlib's new API stack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rllib_tag.plugin.new_api_stack.runner import GuardedEnvRunner
from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPO, TeamPPOConfig

from ..old_api_stack.conftest import CYCLES, FRAGMENT, NUM_ENVS, small_config
from ..old_api_stack.conftest import build as build_old

__all__ = ["CYCLES", "FRAGMENT", "NUM_ENVS", "build", "build_old", "nets_of", "same_weights", "weights_of"]


def build(arrays: bool, env_config: dict[str, Any], **options: Any) -> TeamPPO:
    """An algorithm in this process, from the same keys as the old stack's `build`; `learners` of it are remote."""
    learners = options.pop("learners", 0)
    config = (
        TeamPPOConfig()
        .update_from_dict({"env": "rllib_tag.TagEnv", **small_config(env_config, **options)})
        .learners(num_learners=learners)
    )
    if not arrays:
        config.env_runners(env_runner_cls=GuardedEnvRunner)
    return config.debugging(log_level="ERROR").build_algo()


def nets_of(algorithm: TeamPPO) -> list[dict[str, torch.nn.Module]]:
    """The networks that sample and, with a learner in this process, those that learn, each by module."""
    modules = [algorithm.env_runner.module]
    if algorithm.learner_group.is_local:
        modules.append(algorithm.learner_group._learner.module)
    return [{name: module.net for name, module in each.items()} for each in modules]


def same_weights(old: Any, new: TeamPPO) -> None:
    """Gives both stacks the same weights, with actors that are not near zero."""
    generator = torch.Generator().manual_seed(0)
    for name, policy in old.env_runner.policy_map.items():
        for parameter in policy.model.net.actor.parameters():
            parameter.data.normal_(std=0.2, generator=generator)
        for nets in nets_of(new):
            nets[name].load_state_dict(policy.model.net.state_dict())


def weights_of(net: torch.nn.Module) -> dict[str, np.ndarray]:
    """A copy of a network's weights."""
    return {key: value.detach().cpu().numpy().copy() for key, value in net.state_dict().items()}
