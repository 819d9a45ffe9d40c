"""Rows of team states: stretches of consecutive steps of one game, with the steps of several of its agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch
from torch import Tensor

from rllib_tag.nn.network import AdversaryNet, GoodNet
from rllib_tag.nn.team import receiver_rows
from rllib_tag.plugin.ray_internals import standardize_fields, standardized
from rllib_tag.world.layout import MessageLayout

Observed = Mapping[str, Any]  # arrays or tensors

PRESENT = "present"  # the column (C, n) of which agents take part, if that varies from game to game


class TeamNet:
    """A policy's network on rows of team states.

    A row contains a stretch of C steps of one game for the policy's n agents in it. For adversaries, its observation is
    the input of `CommEncoder.team`, with `links` packed by `numpy.packbits`, and `receivers` (n,), the indices of the
    policy's agents in the team; or, in place of what the encoder reads, its output `features` (C, n, H). For good
    agents, it has `TagEnv`'s keys with leading axes (C, n).

    Args:
        net: The network.
        layout: The layout of the messages; None for good agents.
        comm_hops: How many links a message crosses.
        device: Where the network is.
    """

    def __init__(
        self, net: AdversaryNet | GoodNet, layout: MessageLayout | None, comm_hops: int, device: torch.device
    ) -> None:
        self.net, self.layout, self.comm_hops, self.device = net, layout, comm_hops, device

    def encode(self, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns action-distribution inputs (M, num_outputs) and features (M, H) of all M = R * C * n agent steps."""
        if isinstance(self.net, GoodNet):
            return self.net({key: value.flatten(0, 2) for key, value in obs.items()})
        features = (obs["features"] if "features" in obs else self.features(obs)).flatten(0, 2)
        return self.net.outputs(features), features

    def features(self, obs: Observed) -> Tensor:
        """Returns the encoder's output for the receivers of the observations: (R, C, n, H)."""
        assert isinstance(self.net, AdversaryNet)
        assert self.layout is not None
        encoder, tensors = self.net.encoder, self.tensors(obs)
        receivers, (R, C) = tensors["receivers"][0], tensors["history"].shape
        tensors["links"] = unpack(tensors["links"], tensors["messages"].shape[2])
        if encoder.shares_states(self.comm_hops):
            return encoder.team(tensors, self.layout, receivers)
        rows = receiver_rows(tensors, receivers, self.comm_hops)
        return encoder(rows, self.layout).view(R, C, len(receivers), -1)

    def critic_values(self, obs: Mapping[str, Tensor], features: Tensor | None) -> Tensor:
        """Returns values (M,) of all agent steps."""
        if isinstance(self.net, GoodNet):
            return self.net.value(obs, features)
        return self.net.team_value(obs, obs["receivers"][0], features).flatten()

    def values(self, obs: Observed) -> np.ndarray:
        """Returns values (R, C, n), without gradients."""
        lead = obs["team" if "team" in obs else "own"].shape[:2]
        with torch.no_grad():
            tensors = self.tensors(obs)
            # A centralised critic does not need the actor's features.
            central = isinstance(self.net, AdversaryNet) and self.net.config.critic != "local"
            features = None if central else self.encode(tensors)[1]
            return self.critic_values(tensors, features).cpu().numpy().reshape(*lead, -1)

    def tensors(self, obs: Observed) -> dict[str, Tensor]:
        """Returns the observations as tensors; arrays are copied to the network's device."""
        return {
            key: value if isinstance(value, Tensor) else torch.from_numpy(value).to(self.device)
            for key, value in obs.items()
        }


def by_game(obs: Observed, values: Tensor) -> np.ndarray:
    """Returns the values (B * n, ...) that a policy has for its n agents in B games as (B, n, ...).

    Args:
        obs: What the agents observe, as rows of one step.
        values: The values.
    """
    B = len(obs["receivers" if "receivers" in obs else "own"])
    return values.unflatten(0, (B, -1)).cpu().numpy()


def sharing(nets: Mapping[str, AdversaryNet | GoodNet]) -> list[list[str]]:
    """Returns the policies that share an encoder, group by group; a policy that shares none is a group of its own."""
    groups: dict[int, list[str]] = {}
    for name, net in nets.items():
        groups.setdefault(id(net.encoder), []).append(name)
    return list(groups.values())


def unpack(packed: Tensor, length: int) -> Tensor:
    """Unpacks what `numpy.packbits` packed along the last axis: booleans (..., length)."""
    places = torch.arange(7, -1, -1, device=packed.device, dtype=packed.dtype)
    return ((packed.unsqueeze(-1) >> places) & 1).flatten(-2)[..., :length] > 0


class TeamBatch(MultiAgentBatch):
    """A batch whose rows contain stretches of several agents' steps."""

    def agent_steps(self) -> int:
        """Returns the number of agent steps in all rows."""
        return sum(map(agent_steps, self.policy_batches.values()))


def agent_steps(batch: Mapping[str, np.ndarray]) -> int:
    """Returns the number of agent steps in a policy's batch: those of the agents that take part."""
    return int(batch[PRESENT].sum()) if PRESENT in batch else batch[Columns.ACTION_LOGP].size


def rows_of(steps: Sequence[np.ndarray], stretch: int) -> np.ndarray:
    """Splits arrays (B, ...) of consecutive steps into rows of `stretch` steps of a game: (B * rows, stretch, ...)."""
    stacked = np.stack(steps, axis=1)
    return stacked.reshape(-1, stretch, *stacked.shape[2:])


def minibatches_per_epoch(batches: Mapping[str, Mapping[str, np.ndarray]], size: int | None) -> int:
    """Returns into how many minibatches the rows of policies are split that learn from the same ones.

    Args:
        batches: Each policy's columns.
        size: The agent steps per minibatch, on average over the policies; None or 0 for a single minibatch.
    """
    logp = [batch[Columns.ACTION_LOGP] for batch in batches.values()]
    steps = sum(each.size for each in logp) / len(logp)
    return min(len(logp[0]), max(1, round(steps / size))) if size else 1


def standardize_advantages(batch: MultiAgentBatch) -> MultiAgentBatch:
    """Standardizes advantages as RLlib's PPO does, policy by policy, over the agents that take part."""
    if not any(PRESENT in part for part in batch.policy_batches.values()):
        return standardize_fields(batch, [Postprocessing.ADVANTAGES])
    for part in batch.policy_batches.values():
        advantages, here = part[Postprocessing.ADVANTAGES].copy(), part[PRESENT]
        if here.any():
            advantages[here] = standardized(advantages[here])
            part[Postprocessing.ADVANTAGES] = advantages
    return batch
