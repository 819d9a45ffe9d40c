"""What an adversary makes of the messages that it hears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.entities import EntityEncoder, placed
from rllib_tag.nn.graph import GraphEncoder
from rllib_tag.nn.temporal import GRUReader, TransformerReader, age_encoding, windows
from rllib_tag.world.observations import MessageLayout

Observation = Mapping[str, Tensor]


class _Heard(NamedTuple):
    """Graphs of what each of B receivers hears, side by side as one of M nodes.

    Args:
        nodes: (M, D) features.
        edges: (2, E) indices, senders over receivers.
        is_b: (M,) booleans, which nodes are of class B.
        row: (M,) the receiver that each node is heard by.
        place: (M,) each node's place in the team.
        receivers: (B,) indices of the receivers' own nodes.
    """

    nodes: Tensor
    edges: Tensor
    is_b: Tensor
    row: Tensor
    place: Tensor
    receivers: Tensor


class CommEncoder(nn.Module):
    """What an adversary makes of the messages that reach it.

    Own-class and other-class messages enter through class-specific layers; a temporal network reads
    each sender's tokens; graph layers pass messages over the links; the receiver's node is the result.
    Whatever did not arrive is left out before any arithmetic, so neither values nor gradients leak.

    Args:
        config: The network's configuration.
    """

    def __init__(self, config: CommConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_dim
        kinds = {"landmarks": 4, "good": 6}
        self.classes = nn.ModuleList(EntityEncoder(6, kinds, hidden) for _ in range(2))
        node_dim = hidden if config.temporal == "none" else 2 * hidden
        if config.temporal == "transformer":
            self.temporal: nn.Module = TransformerReader(hidden, config.num_heads, config.num_layers)
        elif config.temporal == "gru":
            self.temporal = GRUReader(hidden, config.num_layers)
        if config.sequence == "neighbors":
            self.own_mark = nn.Parameter(torch.randn(hidden) / hidden**0.5)
        self.graph = GraphEncoder(node_dim, hidden, config.num_heads, config.gnn_layers, config.gnn, config.relational)

    def forward(self, obs: Observation) -> Tensor:
        """Encodes B receivers.

        Args:
            obs: `messages` (B, N, T, F), `message_mask` (B, N, T), `links` (B, N, N), `self` (B, N) one-hot,
                and `good` (B, y, 4), of which only the shape is read. An all-zero row is a lone receiver.

        Returns:
            (B, H), the receivers' nodes.
        """
        heard = self._hear(obs)
        return self.graph(heard.nodes, heard.edges, heard.is_b, heard.receivers)

    def team(self, obs: Observation, receivers: Sequence[int]) -> Tensor:
        """Encodes receivers of the same team states, each state once for all of them.

        Equal to `forward` on each receiver's own observation, where `shares_states` says so. R stretches of C
        consecutive steps are read, so that a message that several windows of T steps hold is projected once.

        Args:
            obs: `messages` (R, C + T - 1, N, F) as sent, `history` (R, C) steps since the reset, at least 1,
                `links` (R, C, N, N) and `good` (R, C, y, 4), of which only the shape is read.
            receivers: n places in the team.

        Returns:
            (R, C, n, H).
        """
        messages, links = obs["messages"], obs["links"] > 0
        R, C, N, _ = links.shape
        T = messages.shape[1] - C + 1
        members = list(receivers)
        if self.config.gnn == "none":  # nobody else is heard
            messages, links = messages[:, :, members], links[:, :, members][:, :, :, members]
            members, N = list(range(len(members))), len(members)
        num_good = obs["good"].shape[2]
        layout = MessageLayout(num_good, (messages.shape[-1] - 8 - 4 * num_good) // 2)
        if self.config.temporal == "none":
            messages, T = messages[:, T - 1 :], 1
        tokens = self._project(messages.flatten(0, 2), layout).view(R, C + T - 1, N, -1)
        nodes = tokens[:, T - 1 :].reshape(R * C * N, -1)  # (M, H)
        if self.config.temporal != "none":
            ages = torch.arange(T - 1, -1, -1, device=messages.device)
            valid = ages < obs["history"].unsqueeze(-1)  # (R, C, T)
            nodes = torch.cat([nodes, self._read_windows(tokens, valid)], dim=-1)  # (M, 2H)
        state, receiver, sender = links.flatten(0, 1).nonzero(as_tuple=True)
        edges = torch.stack([state * N + sender, state * N + receiver])
        index = torch.arange(R * C * N, device=messages.device).view(R, C, N)
        is_b = self._is_b(messages[:, T - 1 :], layout).flatten()
        return self.graph(nodes, edges, is_b, index[..., members].flatten()).view(R, C, len(members), -1)

    def shares_states(self, comm_hops: int) -> bool:
        """Whether `team` gives what `forward` gives: when no message is cut off within the graph layers' reach."""
        if self.config.sequence == "neighbors":
            return False
        return self.config.gnn == "none" or comm_hops >= self.config.gnn_layers

    def _read_windows(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The temporal output for every window of the tokens (R, C + T - 1, N, H): (R * C * N, H)."""
        R, C, T = valid.shape
        N, H = tokens.shape[2:]
        if isinstance(self.temporal, TransformerReader):
            return self.temporal.over_windows(tokens, valid, age_encoding(T, H, tokens.device))
        return self.temporal(windows(tokens, T).reshape(-1, T, H), valid.unsqueeze(2).expand(R, C, N, T).reshape(-1, T))

    def attention(self, obs: Observation) -> Tensor:
        """Attention of every graph layer on every link, as each receiver computes it.

        Returns:
            (B, L, N, N): entry [b, l, i, j] is what node i gives to j in layer l; 0 where there is no link.
        """
        heard = self._hear(obs)
        B, N = obs["links"].shape[:2]
        weights = self.graph.attention(heard.nodes, heard.edges, heard.is_b)
        out = torch.zeros(B, len(weights), N, N, device=heard.nodes.device)
        sender, receiver = heard.edges
        rows, receivers, senders = heard.row[receiver], heard.place[receiver], heard.place[sender]
        for layer, weight in enumerate(weights):
            out[rows, layer, receivers, senders] = weight
        return out

    def _hear(self, obs: Observation) -> _Heard:
        """What B receivers hear, as one graph."""
        messages, valid, links = obs["messages"], obs["message_mask"] > 0, obs["links"] > 0
        B, N, T, _ = messages.shape
        own = torch.zeros(B, N, dtype=torch.bool, device=messages.device)
        own[torch.arange(B, device=own.device), obs["self"].argmax(1)] = True
        # The receiver always hears itself, also in the all-zero rows that RLlib starts with.
        now = torch.zeros(T, dtype=torch.bool, device=messages.device)
        now[-1] = True
        valid = valid | (own.unsqueeze(-1) & now)
        heard = own if self.config.gnn == "none" else valid[:, :, -1]
        links = links & heard.unsqueeze(1) & heard.unsqueeze(2)
        links = links | torch.diag_embed(heard)
        batch, node = heard.nonzero(as_tuple=True)  # (M,) each
        index = heard.flatten().cumsum(0).view(B, N) - 1
        edge = links.nonzero(as_tuple=True)
        edges = torch.stack([index[edge[0], edge[2]], index[edge[0], edge[1]]])  # (2, E)

        num_good = obs["good"].shape[1]
        layout = MessageLayout(num_good, (messages.shape[-1] - 8 - 4 * num_good) // 2)
        heard_messages = messages[batch, node]  # (M, T, F)
        nodes = self._read(heard_messages, valid[batch, node], links, index, (batch, node), layout)
        return _Heard(nodes, edges, self._is_b(heard_messages[:, -1], layout), batch, node, index[own])

    def _read(
        self, heard: Tensor, valid: Tensor, links: Tensor, index: Tensor, places: tuple[Tensor, Tensor],
        layout: MessageLayout,
    ) -> Tensor:  # fmt: skip
        """Projected current view joined with the temporal output: (M, H) or (M, 2H)."""
        config, (batch, node) = self.config, places
        M, T, F = heard.shape
        if config.temporal == "none" or config.sequence == "neighbors":
            heard, valid, T = heard[:, -1:], valid[:, -1:], 1
        tokens = self._project(heard.reshape(M * T, F), layout).view(M, T, -1)  # (M, T, H)
        current = tokens[:, -1]
        if config.temporal == "none":
            return current
        if config.sequence == "neighbors":
            N = links.shape[1]
            known = links[batch, node]  # (M, N)
            senders = index[batch].clamp(min=0)  # (M, N), only read where known
            place = node
            mark = torch.nn.functional.one_hot(place, N).unsqueeze(-1) * self.own_mark
            sequence = current[senders] * known.unsqueeze(-1) + mark  # (M, N, H)
            return torch.cat([current, self.temporal(sequence, known, place)], dim=-1)
        if config.temporal == "gru":
            return torch.cat([current, self.temporal(tokens, valid)], dim=-1)
        place = torch.full((M,), T - 1, device=tokens.device)
        ages = age_encoding(T, config.hidden_dim, tokens.device)
        return torch.cat([current, self.temporal(tokens, valid, place, ages)], dim=-1)

    @staticmethod
    def _is_b(messages: Tensor, layout: MessageLayout) -> Tensor:
        """Which messages (..., F) are of class B: (...) booleans."""
        return messages[..., layout.one_hot][..., 1] > 0

    def _project(self, messages: Tensor, layout: MessageLayout) -> Tensor:
        """Class-specific projection of messages (M, F): (M, H)."""
        position = messages[:, :2]
        own = torch.cat([messages[:, layout.own], messages[:, layout.one_hot]], dim=-1)
        landmarks = placed(position, messages[:, layout.landmarks].unflatten(1, (layout.num_obstacles, 2)))
        good = placed(position, messages[:, layout.good].unflatten(1, (layout.num_good, 4)))
        entities = {}
        for kind, values, flag in (
            ("landmarks", landmarks, layout.sees_landmarks),
            ("good", good, layout.sees_good),
        ):
            entities[kind] = values, (messages[:, flag, None] > 0).expand(values.shape[:2])
        is_b = self._is_b(messages, layout)
        out = own.new_empty(len(messages), self.config.hidden_dim)
        for encoder, rows in zip(self.classes, (~is_b, is_b), strict=True):
            chosen = {kind: (values[rows], counts[rows]) for kind, (values, counts) in entities.items()}
            seen = {kind: pair for kind, pair in chosen.items() if pair[1].any()}  # an unseen set adds nothing
            out[rows] = encoder(own[rows], seen)
        return out.relu()
