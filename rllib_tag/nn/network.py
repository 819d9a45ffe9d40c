"""The networks of an adversary class and of the good agents, from observation to logits and value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.encoder import CommEncoder, Observation
from rllib_tag.nn.entities import EntityEncoder, placed

LOG_STD_RANGE = (-5.0, 2.0)


def head(in_dim: int, hidden_dim: int, out_dim: int, gain: float) -> nn.Sequential:
    """An MLP with one hidden layer whose last weights are orthogonal with `gain` and whose last bias is 0."""
    last = nn.Linear(hidden_dim, out_dim)
    nn.init.orthogonal_(last.weight, gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), last)


class CentralCritic(nn.Module):
    """The value of the global state from one adversary's place. Never in an actor's way.

    Args:
        config: The network's configuration.
    """

    def __init__(self, config: CommConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.encoder = EntityEncoder(6, {"team": 8, "good": 6, "landmarks": 4}, hidden)
        self.value = head(hidden, hidden, 1, gain=1.0)

    def forward(self, obs: Observation) -> Tensor:
        """Values of `team` (B, N, 6), `good` (B, y, 4), `landmarks` (B, z, 2) if any, at `self` (B, N): (B,)."""
        team, me = obs["team"], obs["self"].argmax(1, keepdim=True)  # (B, N, 6), (B, 1)
        rows = torch.arange(len(team), device=team.device)[:, None]
        others = torch.arange(team.shape[1] - 1, device=team.device)
        own = team[rows, me].squeeze(1)  # (B, 6)
        seen = {**obs, "team": team[rows, others + (others >= me)]}  # (B, N - 1, 6)
        return self.value(
            self.encoder(own, surroundings(own[:, :2], seen, "team", "good", "landmarks")).relu()
        ).squeeze(-1)


def surroundings(position: Tensor, obs: Observation, *kinds: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The observation's entities of some kinds, where there are any, seen from (B, 2) and all counted."""
    out = {}
    for kind in kinds:
        if kind in obs:
            values = placed(position, obs[kind])
            out[kind] = values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return out


class AdversaryNet(nn.Module):
    """Actor and critic of one adversary class.

    Args:
        num_outputs: Logits for Discrete(5), or 10: mean and log-std of five continuous actions.
        config: The network's configuration.
        continuous: Whether the outputs are mean and log-std.
        critic: The critic to use in place of an own one (`critic: shared`). Default: an own one.
    """

    def __init__(
        self, num_outputs: int, config: CommConfig, continuous: bool, critic: CentralCritic | None = None
    ) -> None:
        super().__init__()
        self.config, self.continuous = config, continuous
        self.encoder = CommEncoder(config)
        self.actor = head(config.hidden_dim, config.hidden_dim, num_outputs, gain=0.01)
        if config.critic == "local":
            self.critic: nn.Module = head(config.hidden_dim, config.hidden_dim, 1, gain=1.0)
        else:
            self.critic = critic or CentralCritic(config)

    def forward(self, obs: Observation) -> tuple[Tensor, Tensor]:
        """Action-distribution inputs (B, num_outputs) and the receivers' features (B, H)."""
        features = self.encoder(obs)
        return bounded(self.actor(features), self.continuous), features

    def team(self, obs: Observation, receivers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Action-distribution inputs (R, C, n, num_outputs) and features (R, C, n, H), as `CommEncoder.team`."""
        features = self.encoder.team(obs, receivers)
        return bounded(self.actor(features), self.continuous), features

    def team_value(self, obs: Observation, receivers: Sequence[int], features: Tensor | None = None) -> Tensor:
        """Values (R, C, n) of `team` (R, C, N, 6), `good` (R, C, y, 4) and `landmarks` (R, C, z, 2) if any.

        With `critic: local` of the features, with their leading axes.
        """
        if self.config.critic == "local":
            return self.value(obs, features)
        R, C, N, _ = obs["team"].shape
        n = len(receivers)
        rows = {
            key: obs[key].unsqueeze(2).expand(R, C, n, *obs[key].shape[2:]).flatten(0, 2)
            for key in ("team", "good", "landmarks")
            if key in obs
        }
        places = torch.eye(N, device=obs["team"].device)[list(receivers)]
        rows["self"] = places.expand(R, C, n, N).flatten(0, 2)
        return self.value(rows, features).view(R, C, n)

    def value(self, obs: Observation, features: Tensor | None) -> Tensor:
        """Values (B,): of the global state, or with `critic: local` of the actor's features."""
        value = self.critic(features).squeeze(-1) if self.config.critic == "local" else self.critic(obs)
        return value * self.config.value_scale


class GoodNet(nn.Module):
    """Actor and critic of learning prey, which sees everything but the adversaries' velocities.

    Args:
        num_outputs: Logits for Discrete(5), or 10: mean and log-std of five continuous actions.
        config: The network's configuration; only width and value scale are read.
        continuous: Whether the outputs are mean and log-std.
    """

    def __init__(self, num_outputs: int, config: CommConfig, continuous: bool) -> None:
        super().__init__()
        self.config, self.continuous = config, continuous
        hidden = config.hidden_dim
        self.encoder = EntityEncoder(4, {"adversaries": 4, "good": 6, "landmarks": 4}, hidden)
        self.actor = head(hidden, hidden, num_outputs, gain=0.01)
        self.critic = head(hidden, hidden, 1, gain=1.0)

    def forward(self, obs: Observation) -> tuple[Tensor, Tensor]:
        """Action-distribution inputs (B, num_outputs) and features (B, H).

        Args:
            obs: `own` (B, 4), `adversaries` (B, x, 2), and `good` (B, y - 1, 4) and `landmarks` (B, z, 2)
                if any, in absolute coordinates.
        """
        entities = surroundings(obs["own"][:, :2], obs, "adversaries", "good", "landmarks")
        features = self.encoder(obs["own"], entities).relu()
        return bounded(self.actor(features), self.continuous), features

    def value(self, obs: Observation, features: Tensor | None) -> Tensor:
        """Values (B,) of the features."""
        del obs
        return self.critic(features).squeeze(-1) * self.config.value_scale


def bounded(outputs: Tensor, continuous: bool) -> Tensor:
    """Keeps a log-std half (of the last axis) within `LOG_STD_RANGE`; logits stay as they are."""
    if not continuous:
        return outputs
    mean, log_std = outputs.chunk(2, dim=-1)
    return torch.cat([mean, log_std.clamp(*LOG_STD_RANGE)], dim=-1)
