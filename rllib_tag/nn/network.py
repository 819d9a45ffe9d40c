"""The networks of a team's class and of the good agents, from observation to logits and value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.encoder import CommEncoder
from rllib_tag.nn.entities import EntityEncoder
from rllib_tag.nn.products import Product
from rllib_tag.nn.team import Observation, at
from rllib_tag.world.layout import MessageLayout, Senses, present_key
from rllib_tag.world.observations import SENSES

LOG_STD_RANGE = (-5.0, 2.0)


def head(config: CommConfig, out_dim: int, gain: float) -> nn.Sequential:
    """Returns an MLP with one hidden layer, whose last layer has orthogonal weights with `gain` and bias 0."""
    hidden_dim = config.hidden_dim
    last = nn.Linear(hidden_dim, out_dim)
    nn.init.orthogonal_(last.weight, gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(Product(hidden_dim, hidden_dim, precision=config.precision), nn.ReLU(), last)


class CentralCritic(nn.Module):
    """The value of the global state for one agent. No actor ever uses it.

    Args:
        config: The network's configuration.
        senses: The sizes of the critics' state in the game.
    """

    def __init__(self, config: CommConfig, senses: Senses) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.kinds = {**senses.state, "team": senses.state["team"] + len(senses.classes)}
        self.encoder = EntityEncoder(self.kinds["team"], self.kinds, hidden, config.precision)
        self.value = head(config, 1, gain=1.0)

    def forward(self, obs: Observation, agents: Tensor) -> Tensor:
        """Returns the values (S, n) of S states for n agents.

        Args:
            obs: `team` (S, N, D) and other kinds (S, K, D); and by `present_key` which of them exist, if that varies.
            agents: Their indices in the team: (n,), or (S, n) if they differ.
        """
        entities, present = (
            {kind: values.unsqueeze(1) for kind, values in each.items()} for each in entities_of(obs, self.kinds)
        )
        own = at(obs["team"], agents)
        return self.value(self.encoder(own, entities, {"team": agents}, present).relu()).squeeze(-1)


def entities_of(obs: Observation, kinds: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns an observation's entities by kind, (..., K, D), and which of them exist, (..., K), if that varies."""
    found = {kind: obs[kind] for kind in kinds if kind in obs}
    return found, {kind: obs[present_key(kind)] > 0 for kind in found if present_key(kind) in obs}


class AdversaryNet(nn.Module):
    """Actor and critic of one class of a team.

    Args:
        num_outputs: The number of inputs of the action distribution: a logit for each discrete action, or mean and
            log-std of each continuous one.
        config: The network's configuration.
        continuous: Whether the outputs are mean and log-std.
        senses: The sizes of what is seen in the game. Default: those of tag.
        critic: The critic to use instead of the network's own (`critic: shared`); None omits it, for acting only.
            Default: `own`.
        encoder: The encoder to use instead of the network's own (`encoder: shared`). Default: None.
    """

    def __init__(
        self, num_outputs: int, config: CommConfig, continuous: bool, senses: Senses = SENSES,
        critic: CentralCritic | Literal["own"] | None = "own", encoder: CommEncoder | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.continuous, self.num_outputs = config, continuous, num_outputs
        self.encoder = CommEncoder(config, senses) if encoder is None else encoder
        self.actor = head(config, num_outputs, gain=0.01)
        if critic == "own":
            local = config.critic == "local"
            made = head(config, 1, gain=1.0) if local else CentralCritic(config, senses)
            self.critic: nn.Module | None = made
        else:
            self.critic = critic

    def forward(self, obs: Observation, layout: MessageLayout) -> tuple[Tensor, Tensor]:
        """Returns action-distribution inputs (B, num_outputs) and the receivers' features (B, H)."""
        features = self.encoder(obs, layout)
        return self.outputs(features), features

    def outputs(self, features: Tensor) -> Tensor:
        """Returns action-distribution inputs (..., num_outputs) for receivers' features (..., H)."""
        return bounded(self.actor(features), self.continuous)

    def team_value(self, obs: Observation, receivers: Tensor, features: Tensor | None = None) -> Tensor:
        """Returns values (R, C, n) of the critics' state, (R, C, K, D) by kind of entity, for receivers (n,).

        With `critic: local`, these are values of the features, with the features' leading axes.
        """
        if not isinstance(self.critic, CentralCritic):
            return self.value(obs, features)
        lead = obs["team"].shape[:2]
        keys = [key for kind in self.critic.kinds for key in (kind, present_key(kind))]
        state = {key: obs[key].flatten(0, 1) for key in keys if key in obs}
        return self.critic(state, receivers).unflatten(0, lead) * self.config.value_scale

    def value(self, obs: Observation, features: Tensor | None) -> Tensor:
        """Returns values (B,) of the global state, or of the actor's features with `critic: local`."""
        assert self.critic is not None
        if isinstance(self.critic, CentralCritic):
            value = self.critic(obs, obs["self"].argmax(1, keepdim=True))
        else:
            value = self.critic(features)
        return value.squeeze(-1) * self.config.value_scale


class GoodNet(nn.Module):
    """Actor and critic of learning prey, which sees everything except the adversaries' velocities.

    Args:
        num_outputs: 5, the logits of Discrete(5), or 10, mean and log-std of five continuous actions.
        config: The network's configuration; only `hidden_dim` and `value_scale` are used.
        continuous: Whether the outputs are mean and log-std.
    """

    def __init__(self, num_outputs: int, config: CommConfig, continuous: bool) -> None:
        super().__init__()
        self.config, self.continuous, self.num_outputs = config, continuous, num_outputs
        hidden = config.hidden_dim
        self.encoder = EntityEncoder(4, {"adversaries": 2, "good": 4, "landmarks": 2}, hidden, config.precision)
        self.actor = head(config, num_outputs, gain=0.01)
        self.critic: nn.Module | None = head(config, 1, gain=1.0)

    def forward(self, obs: Observation, layout: MessageLayout | None = None) -> tuple[Tensor, Tensor]:
        """Returns action-distribution inputs (B, num_outputs) and features (B, H).

        Args:
            obs: `own` (B, 4), `adversaries` (B, x, 2), and `good` (B, y - 1, 4) and `landmarks` (B, z, 2)
                if any, in absolute coordinates; and by `present_key` which of them there are, if that varies.
            layout: Ignored, because prey hears no messages.
        """
        del layout
        entities, present = entities_of(obs, self.encoder.entity)
        features = self.encoder(obs["own"], entities, present=present).relu()
        return bounded(self.actor(features), self.continuous), features

    def value(self, obs: Observation, features: Tensor | None) -> Tensor:
        """Returns values (B,) of the features."""
        del obs
        assert self.critic is not None
        return self.critic(features).squeeze(-1) * self.config.value_scale


def bounded(outputs: Tensor, continuous: bool) -> Tensor:
    """Clamps the log-std half of the last axis to `LOG_STD_RANGE`; logits are returned unchanged."""
    if not continuous:
        return outputs
    mean, log_std = outputs.chunk(2, dim=-1)
    return torch.cat([mean, log_std.clamp(*LOG_STD_RANGE)], dim=-1)
