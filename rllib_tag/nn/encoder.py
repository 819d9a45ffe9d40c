"""The encoder of the messages that an agent hears."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.entities import EntityEncoder
from rllib_tag.nn.graph import GraphEncoder, Seen
from rllib_tag.nn.team import Observation, at, between
from rllib_tag.nn.temporal import GRUReader, TransformerReader, age_encoding, valid_steps, windows
from rllib_tag.world.layout import MessageLayout, Senses


class Teams(NamedTuple):
    """S = R * C states of teams of N: R sequences of C consecutive ones.

    Args:
        messages: (R, C + T - 1, N, F) of consecutive steps, so that a message is embedded once for all its windows of T
            steps.
        valid: (R, C, N or 1, T) which messages of the window that ends at a step arrived and belong to its episode.
        links: (S, N, N) booleans.
        answers: The indices of the n agents whose output is needed: (n,), or (S, n) if they differ; None for all.
    """

    messages: Tensor
    valid: Tensor
    links: Tensor
    answers: Tensor | None


class View(NamedTuple):
    """What n agents of one class say.

    Args:
        own: Their own numbers and class, (..., n, d).
        entities: What they see, (..., n, K, D) by kind.
        present: Which entities there are, (..., n, K) by kind, if that varies; empty otherwise.
    """

    own: Tensor
    entities: dict[str, Tensor]
    present: dict[str, Tensor]


class CommEncoder(nn.Module):
    """Encodes the messages that reach an agent.

    The messages of each class are embedded by that class's own layers. A temporal network reads each sender's tokens,
    and graph layers pass messages over the links. The receiver's node is the output. What did not arrive has no link,
    and so a weight of exactly 0: neither values nor gradients leak.

    Args:
        config: The network's configuration.
        senses: The sizes of what is seen in the game.
    """

    def __init__(self, config: CommConfig, senses: Senses) -> None:
        super().__init__()
        self.config, self.senses = config, senses
        hidden, num_classes = config.hidden_dim, len(senses.classes)
        self.classes = nn.ModuleList(
            EntityEncoder(own + num_classes, senses.kinds, hidden, config.precision) for own in senses.own
        )
        node_dim = hidden if config.temporal == "none" else 2 * hidden
        if config.temporal == "transformer":
            self.temporal: nn.Module = TransformerReader(hidden, config.num_heads, config.num_layers, config.precision)
        elif config.temporal == "gru":
            self.temporal = GRUReader(hidden, config.num_layers)
        if config.sequence == "neighbors":
            self.own_mark = nn.Parameter(torch.randn(hidden) / hidden**0.5)
        self.graph = GraphEncoder(node_dim, config, senses)

    def forward(self, obs: Observation, layout: MessageLayout) -> Tensor:
        """Encodes B receivers.

        Args:
            obs: `messages` (B, N, T, F), `message_mask` (B, N, T), `links` (B, N, N) and `self` (B, N) one-hot. An
                all-zero row is treated as a receiver that hears only itself.
            layout: The layout of the messages.

        Returns:
            (B, H), the features of the receivers' nodes.
        """
        return self._encode(_rows(obs), layout).squeeze(1)

    def team(self, obs: Observation, layout: MessageLayout, receivers: Tensor) -> Tensor:
        """Encodes several receivers of the same team states, computing each state only once.

        Equals `forward` on each receiver's own observation if `shares_states` is true.

        Args:
            obs: R sequences of C consecutive steps: `messages` (R, C + T - 1, N, F) as sent, `history` (R, C), how
                many of the last T messages belong to the current episode, at least 1, and `links` (R, C, N, N).
            layout: The layout of the messages.
            receivers: (n,) the indices of team members.

        Returns:
            (R, C, n, H).
        """
        return self._encode(team_states(obs, receivers), layout).unflatten(0, obs["history"].shape)

    def shares_states(self, comm_hops: int) -> bool:
        """Whether `team` equals `forward`: no message from within reach of the graph layers is cut off."""
        if self.config.sequence == "neighbors":
            return False
        return self.config.gnn == "none" or comm_hops >= self.config.gnn_layers

    def shares_messages(self, comm_hops: int) -> bool:
        """Whether what an agent sends in a graph layer is one message for all who hear it."""
        config = self.config
        return config.encoder == "shared" and config.gnn != "none" and self.shares_states(comm_hops)

    def attention(self, obs: Observation, layout: MessageLayout) -> Tensor:
        """Returns the attention of each graph layer on each link, as each receiver computes it.

        Returns:
            (B, L, N, N): entry [b, l, i, j] is the attention of node i to node j in layer l; 0 without a link.
        """
        weights: list[Tensor] = []
        self._encode(_rows(obs)._replace(answers=None), layout, weights)
        return torch.stack(weights, dim=1) * (obs["links"] > 0).unsqueeze(1)

    def messages(self, obs: Observation, layout: MessageLayout) -> Tensor:
        """Returns what the agents of S = R * C team states send in each graph layer: (S, L, N, message_dim).

        Args:
            obs: As for `team`.
            layout: The layout of the messages.
        """
        sent: list[Tensor] = []
        self._encode(team_states(obs, None), layout, sent=sent)
        return torch.stack(sent, dim=1)

    def _encode(
        self, teams: Teams, layout: MessageLayout, weights: list[Tensor] | None = None,
        sent: list[Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Returns the features of the agents whose output is needed: (S, n, H)."""
        nodes, positions, seen = self.nodes(teams, layout)
        alone = not self.config.listens and teams.answers is not None
        return self.graph(nodes, teams.links, positions, seen, None if alone else teams.answers, weights, sent)

    def nodes(self, teams: Teams, layout: MessageLayout) -> tuple[Tensor, Tensor, list[Seen]]:
        """Returns the input of the graph layers: nodes (S, N, in_dim), positions (S, N, 2), and what each class sees.

        If the encoder does not listen, the nodes are only those of the agents whose output is needed.
        """
        config = self.config
        messages, valid, links, answers = teams
        C, T = valid.shape[1], valid.shape[3]
        if config.temporal == "none" or config.sequence == "neighbors":
            messages = messages[:, T - 1 :]
        views = self._views(messages, layout)
        tokens = torch.cat(
            [
                encoder(view.own, view.entities, present=view.present)
                for encoder, view in zip(self.classes, views, strict=True)
            ],
            dim=2,
        ).relu()  # (R, C or C + T - 1, N, H)
        if not config.listens and answers is not None:
            tokens, valid = _among(tokens, answers), _among(valid, answers)
        nodes = tokens[:, -C:].flatten(0, 1)
        if config.sequence == "neighbors":
            nodes = torch.cat([nodes, self._read_neighbors(nodes, links)], dim=-1)
        elif config.temporal != "none":
            nodes = torch.cat([nodes, self._read_windows(tokens, valid)], dim=-1)
        now, present = (
            [{kind: values[:, -C:].flatten(0, 1) for kind, values in each.items()} for each in of_classes]
            for of_classes in ([view.entities for view in views], [view.present for view in views])
        )
        seen = Seen.by_class((view.own.shape[2] for view in views), now, present)
        return nodes, messages[:, -C:, :, :2].flatten(0, 1), seen

    def _views(self, messages: Tensor, layout: MessageLayout) -> list[View]:
        """Returns what the agents of each class say."""
        out = []
        if layout.sizes is None:
            layout = completed(layout, messages)
        parts = messages.split(layout.sizes, dim=-2)
        for part, own_dim, kinds in zip(parts, self.senses.own, layout.sees, strict=True):
            own = torch.cat([part[..., :own_dim], part[..., layout.one_hot]], dim=-1)
            entities, present = {}, {}
            for kind in kinds:
                K = layout.counts[kind]
                numbers = part[..., layout.entities(kind)]
                entities[kind] = numbers.reshape(*numbers.shape[:-1], K, self.senses.kinds[kind])
                if layout.varies:
                    present[kind] = torch.arange(K, device=part.device) < part[..., layout.seen(kind), None] - 1
            out.append(View(own, entities, present))
        return out

    def _read_windows(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Returns the temporal output for every window of the tokens (R, C + T - 1, N, H): (S, N, H)."""
        (R, C, _, T), (N, H) = valid.shape, tokens.shape[2:]
        if isinstance(self.temporal, TransformerReader):
            read = self.temporal.over_windows(tokens, valid, age_encoding(T, H, tokens.device))
        else:
            valid = valid.expand(R, C, N, T).reshape(-1, T)
            read = self.temporal(windows(tokens, T).reshape(-1, T, H), valid)
        return read.view(R * C, N, H)

    def _read_neighbors(self, nodes: Tensor, links: Tensor) -> Tensor:
        """Returns the temporal output over the tokens (S, N, H) that each node hears, in order: (S, N, H)."""
        S, N, H = nodes.shape
        own = torch.eye(N, device=nodes.device).unsqueeze(-1) * self.own_mark
        sequence = nodes.unsqueeze(1) * links.unsqueeze(-1) + own  # (S, N, N, H)
        place = torch.arange(N, device=nodes.device).repeat(S)
        return self.temporal(sequence.flatten(0, 1), links.flatten(0, 1), place).view(S, N, H)


def team_states(obs: Observation, receivers: Tensor | None) -> Teams:
    """Returns team states of which all receivers share what was said."""
    messages, links = obs["messages"], obs["links"] > 0
    T = messages.shape[1] - links.shape[1] + 1
    valid = valid_steps(obs["history"], T).unsqueeze(2)  # (R, C, 1, T)
    return Teams(messages, valid, links.flatten(0, 1), receivers)


def _rows(obs: Observation) -> Teams:
    """Returns what B receivers hear as the states of B teams."""
    links, heard = obs["links"] > 0, obs["message_mask"] > 0  # (B, N, N), (B, N, T)
    N, T = heard.shape[1:]
    # A receiver always hears itself, even in the all-zero rows with which RLlib initializes a policy. Attention needs
    # something to attend to, so everybody who did not arrive says zeros to itself.
    itself = torch.eye(N, dtype=torch.bool, device=links.device)
    now = torch.arange(T, device=links.device) == T - 1
    me = obs["self"].argmax(1, keepdim=True)
    return Teams(
        messages=obs["messages"].transpose(1, 2),
        valid=(heard | now).unsqueeze(1),
        links=between(links, heard[:, :, -1]) | itself,
        answers=me,
    )


def _among(values: Tensor, places: Tensor) -> Tensor:
    """Returns the values (R, C, N or 1, ...) of the agents at places (n,), or (R, n): (R, C, n or 1, ...)."""
    if values.shape[2] == 1:
        return values
    return at(values.transpose(1, 2), places).transpose(1, 2)


def completed(layout: MessageLayout, messages: Tensor) -> MessageLayout:
    """Returns a layout that RLlib saved incompletely, with what messages (..., N, F) say about the classes.

    A sender that nobody hears counts as one of its predecessor's class. Nothing that it says is used.
    """
    K, kinds = len(layout.senses.classes), list(layout.senses.kinds)
    said = messages.flatten(0, -3)
    classes = said[..., layout.one_hot].amax(0).argmax(1).cummax(0).values  # (N,), class by class
    sees = torch.stack([said[..., layout.seen(kind)].amax(0) > 0 for kind in kinds], dim=1)  # (N, kinds)
    return dataclasses.replace(
        layout,
        sizes=tuple(torch.bincount(classes, minlength=K).tolist()),
        sees=tuple(
            tuple(kind for kind, seen in zip(kinds, sees[classes == k].any(0).tolist(), strict=True) if seen)
            for k in range(K)
        ),
    )
