"""Measures how much each class's actions depend on the other class's messages, and where its attention goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from rllib_tag.nn.network import AdversaryNet
from rllib_tag.nn.weights import Net
from rllib_tag.playing.channel import relinked
from rllib_tag.playing.controllers import class_parts
from rllib_tag.playing.games import Games, Rows
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.world.layout import MessageLayout


class Influence:
    """Watches a team play and accumulates metrics for every game and class, as means over the class's receivers.

    | metric | meaning |
    | --- | --- |
    | `kl` | divergence of the policy from itself without the other class's messages, in nats |
    | `logit_shift` | mean absolute change of the centred logits; of the means, with continuous actions |
    | `action_changes` | share of receivers whose most likely action changes; not with continuous actions |
    | `heard` | teammates whose message arrives |
    | `attention_entropy` | of a receiver's attention in the last graph layer, averaged over heads, in nats |
    | `attention_entropy_uniform` | its value if all senders (with `relational`, all of a class) had equal weight |

    Without the other class's messages, those of the own class that came through it are missing, too. A class without
    graph layers has no entropies. An agent that takes no part counts for nothing, and a class of which nobody takes
    part in a game has no row for it.

    Args:
        team: The trained team.
    """

    def __init__(self, team: TrainedTeam) -> None:
        self._team = team
        self._sums: dict[str, dict[str, np.ndarray]] = {}
        self._receivers: dict[str, dict[str, np.ndarray]] = {}  # (B,) how many have the metric
        self._steps: np.ndarray | int = 0

    def watch(self, games: Games) -> None:
        """Measures all games in their state before a step."""
        running = np.array([not stats for stats in games.stats], float)  # wrappers may end episodes early
        self._steps = self._steps + running
        for name in games.config.game.classes:
            members = [games.config.game.team.index(agent) for agent in games.config.game.members(name)]
            totals: dict[str, np.ndarray] = {}
            counts: dict[str, np.ndarray] = {}
            for policy, places, rows in class_parts(self._team, name, games):
                here = games.present[:, [members[place] for place in places]]  # (B, receivers)
                for key, value in _metrics(self._team.nets[policy], name, rows, games).items():
                    values = value.float().numpy().reshape(here.shape)
                    totals[key] = totals.get(key, 0) + (values * here).sum(1)
                    counts[key] = counts.get(key, 0) + here.sum(1)
            sums, self._receivers[name] = self._sums.setdefault(name, {}), counts
            for key, total in totals.items():
                sums[key] = sums.get(key, 0) + running * total / counts[key].clip(min=1)

    def rows(self, games: Games) -> list[dict[str, Any]]:
        """Returns one row per game and class, with each metric's mean over the steps watched."""
        rows = []
        for name, sums in self._sums.items():
            means = {key: total / self._steps for key, total in sums.items()}
            for i, seed in enumerate(games.seeds):
                mine = {key: float(values[i]) for key, values in means.items() if self._receivers[name][key][i]}
                rows += [{"policy": name, "seed": seed, **mine}] if mine else []
        return rows


def _metrics(net: Net, policy: str, rows: Rows, games: Games) -> dict[str, Tensor]:
    assert isinstance(net, AdversaryNet)
    game = games.config.game
    same = torch.from_numpy(game.class_of == list(game.classes).index(policy))  # (N,)
    links = rows["links"] > 0
    deaf = relinked(rows, links & same & same[:, None], games.config.comm_hops)
    with torch.no_grad():
        (full, _), (without, _) = net(rows, games.layout), net(deaf, games.layout)
    out = {"kl": divergence(full, without, net.continuous), "logit_shift": _shift(full, without, net.continuous)}
    if not net.continuous:
        out["action_changes"] = full.argmax(-1) != without.argmax(-1)
    me = rows["self"].argmax(1)
    out["heard"] = (rows["message_mask"][:, :, -1] > 0).sum(1) - 1
    if net.config.gnn != "none":
        mine = receiver_attention(net, rows, games.layout)  # (M, N)
        out["attention_entropy"] = -(mine * mine.clamp(min=1e-12).log()).sum(-1)
        heard = links[torch.arange(len(me)), me]  # (M, N)
        parts = [heard & same, heard & ~same] if net.config.relational else [heard]
        out["attention_entropy_uniform"] = _even_entropy(torch.stack([part.sum(-1) for part in parts]))
    return out


def receiver_attention(net: Net, rows: Rows, layout: MessageLayout) -> Tensor:
    """Returns each receiver's attention to each sender in its last graph layer: (M, N), 0 without `gnn`."""
    assert isinstance(net, AdversaryNet)
    me = rows["self"].argmax(1)
    if net.config.gnn == "none":
        return torch.zeros_like(rows["self"])
    with torch.no_grad():
        return net.encoder.attention(rows, layout)[torch.arange(len(me)), -1, me]


def _even_entropy(counts: Tensor) -> Tensor:
    """Returns the entropy (M,) of attention that is even over sets and within each of them, of (sets, M) senders."""
    sets = (counts > 0).sum(0)
    return sets.log() + counts.clamp(min=1).log().sum(0) / sets


def divergence(first: Tensor, second: Tensor, continuous: bool) -> Tensor:
    """Returns the Kullback-Leibler divergence of a policy from another, in nats: (M,).

    Args:
        first: (M, num_outputs) inputs of the policy's action distribution.
        second: The same of the other policy.
        continuous: Whether they are means and log-stds; otherwise they are logits.
    """
    if continuous:
        normals = (Normal(mean, log_std.exp()) for mean, log_std in (first.chunk(2, -1), second.chunk(2, -1)))
        return kl_divergence(*normals).sum(-1)
    # `kl_divergence` of `Categorical`s is infinite where a probability underflows, which its logarithm does not.
    return functional.kl_div(second.log_softmax(-1), first.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def _shift(first: Tensor, second: Tensor, continuous: bool) -> Tensor:
    difference = first - second
    difference = difference.chunk(2, dim=-1)[0] if continuous else difference - difference.mean(-1, keepdim=True)
    return difference.abs().mean(-1)
