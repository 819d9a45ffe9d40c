"""The encoder of the messages that an agent hears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.entities import EntityEncoder
from rllib_tag.nn.graph import GraphEncoder
from rllib_tag.nn.team import Observation, between
from rllib_tag.nn.temporal import GRUReader, TransformerReader, age_encoding, valid_steps, windows
from rllib_tag.world.layout import MessageLayout, Senses


class _Graph(NamedTuple):
    """A batch of team graphs whose M = R * C * P nodes are P senders in each of C consecutive steps of R sequences.

    Args:
        messages: (R, C + T - 1, P, F) of consecutive steps, so that a message is projected once for all its windows
            of T steps.
        valid: (R, C, T) which messages of the window that ends at a step arrived and belong to its episode.
        edges: (2, E) node indices, senders in the first row and receivers in the second.
        answers: (B,) indices of the nodes whose output is needed.
    """

    messages: Tensor
    valid: Tensor
    edges: Tensor
    answers: Tensor


class CommEncoder(nn.Module):
    """Encodes the messages that reach an agent.

    The messages of each class are embedded by that class's own layers. A temporal network reads each sender's tokens,
    and graph layers pass messages over the links. The receiver's node is the output. Messages that did not arrive are
    removed before any arithmetic, so neither values nor gradients leak.

    Args:
        config: The network's configuration.
        senses: The sizes of what is seen in the game.
    """

    def __init__(self, config: CommConfig, senses: Senses) -> None:
        super().__init__()
        self.config, self.senses = config, senses
        hidden, num_classes = config.hidden_dim, len(senses.classes)
        self.classes = nn.ModuleList(EntityEncoder(own + num_classes, senses.kinds, hidden) for own in senses.own)
        node_dim = hidden if config.temporal == "none" else 2 * hidden
        if config.temporal == "transformer":
            self.temporal: nn.Module = TransformerReader(hidden, config.num_heads, config.num_layers)
        elif config.temporal == "gru":
            self.temporal = GRUReader(hidden, config.num_layers)
        if config.sequence == "neighbors":
            self.own_mark = nn.Parameter(torch.randn(hidden) / hidden**0.5)
        num_relations = num_classes if config.relational else 1
        self.graph = GraphEncoder(node_dim, hidden, config.num_heads, config.gnn_layers, config.gnn, num_relations)

    def forward(self, obs: Observation, layout: MessageLayout) -> Tensor:
        """Encodes B receivers.

        Args:
            obs: `messages` (B, N, T, F), `message_mask` (B, N, T), `links` (B, N, N) and `self` (B, N) one-hot. An
                all-zero row is treated as a receiver that hears only itself.
            layout: The layout of the messages.

        Returns:
            (B, H), the features of the receivers' nodes.
        """
        graph, places = self._heard(obs)
        return self._encode(graph, layout, places)

    def team(self, obs: Observation, layout: MessageLayout, receivers: Sequence[int]) -> Tensor:
        """Encodes several receivers of the same team states, computing each state only once.

        Equals `forward` on each receiver's own observation if `shares_states` is true.

        Args:
            obs: R sequences of C consecutive steps: `messages` (R, C + T - 1, N, F) as sent, `history` (R, C), how
                many of the last T messages belong to the current episode, at least 1, and `links` (R, C, N, N).
            layout: The layout of the messages.
            receivers: The indices of n team members.

        Returns:
            (R, C, n, H).
        """
        messages, links, members = obs["messages"], obs["links"] > 0, list(receivers)
        R, C, N, _ = links.shape
        if self.config.gnn == "none":  # nobody else is heard
            messages, links = messages[:, :, members], links[:, :, members][:, :, :, members]
            members, N = list(range(len(members))), len(members)
        T = messages.shape[1] - C + 1
        valid = valid_steps(obs["history"], T)  # (R, C, T)
        state, receiver, sender = links.flatten(0, 1).nonzero(as_tuple=True)
        edges = torch.stack([state * N + sender, state * N + receiver])
        index = torch.arange(R * C * N, device=links.device).view(R, C, N)
        graph = _Graph(messages, valid, edges, index[..., members].flatten())
        return self._encode(graph, layout).view(R, C, len(members), -1)

    def shares_states(self, comm_hops: int) -> bool:
        """Whether `team` equals `forward`: no message from within reach of the graph layers is cut off."""
        if self.config.sequence == "neighbors":
            return False
        return self.config.gnn == "none" or comm_hops >= self.config.gnn_layers

    def attention(self, obs: Observation, layout: MessageLayout) -> Tensor:
        """Returns the attention of each graph layer on each link, as each receiver computes it.

        Returns:
            (B, L, N, N): entry [b, l, i, j] is the attention of node i to node j in layer l; 0 without a link.
        """
        graph, (row, place) = self._heard(obs)
        B, N = obs["self"].shape
        nodes, classes = self._nodes(graph, layout, (row, place))
        weights = self.graph.attention(nodes, graph.edges, classes)
        out = torch.zeros(B, len(weights), N, N, device=nodes.device)
        sender, receiver = graph.edges
        for layer, weight in enumerate(weights):
            out[row[receiver], layer, place[receiver], place[sender]] = weight
        return out

    def _heard(self, obs: Observation) -> tuple[_Graph, tuple[Tensor, Tensor]]:
        """Returns what B receivers hear as one graph, and each node's receiver and index in the team: (M,) each."""
        messages, valid, links = obs["messages"], obs["message_mask"] > 0, obs["links"] > 0
        B, N, T, _ = messages.shape
        own = torch.zeros(B, N, dtype=torch.bool, device=messages.device)
        own[torch.arange(B, device=own.device), obs["self"].argmax(1)] = True
        # The receiver always hears itself, even in the all-zero rows with which RLlib initializes a policy.
        now = torch.arange(T, device=messages.device) == T - 1
        valid = valid | (own.unsqueeze(-1) & now)
        heard = own if self.config.gnn == "none" else valid[:, :, -1]
        links = between(links, heard) | torch.diag_embed(heard)
        node_row, node_place = heard.nonzero(as_tuple=True)
        index = heard.flatten().cumsum(0).view(B, N) - 1
        row, receiver, sender = links.nonzero(as_tuple=True)
        edges = torch.stack([index[row, sender], index[row, receiver]])  # (2, E)
        said = messages[node_row, node_place].unsqueeze(2)  # (M, T, 1, F)
        graph = _Graph(said, valid[node_row, node_place].unsqueeze(1), edges, index[own])
        return graph, (node_row, node_place)

    def _encode(self, graph: _Graph, layout: MessageLayout, places: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Returns the features of the needed nodes: (B, H)."""
        nodes, classes = self._nodes(graph, layout, places)
        return self.graph(nodes, graph.edges, classes, graph.answers)

    def _nodes(
        self, graph: _Graph, layout: MessageLayout, places: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the graph layers' input: each node's current token joined with the temporal output, and its class."""
        config, messages, valid = self.config, graph.messages, graph.valid
        C, T = valid.shape[1:]
        if config.temporal == "none" or config.sequence == "neighbors":
            messages = messages[:, T - 1 :]
        tokens, classes = self._project(messages, layout)
        nodes, classes = tokens[:, -C:].reshape(-1, config.hidden_dim), classes[:, -C:].flatten()  # (M, H), (M,)
        if config.temporal == "none":
            return nodes, classes
        if config.sequence == "neighbors":
            assert places is not None
            read = self._read_neighbors(nodes, graph.edges, places)
        else:
            read = self._read_windows(tokens, valid)
        return torch.cat([nodes, read], dim=-1), classes  # (M, 2H)

    def _read_windows(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Returns the temporal output for every window of the tokens (R, C + T - 1, P, H): (R * C * P, H)."""
        R, C, T = valid.shape
        P, H = tokens.shape[2:]
        if isinstance(self.temporal, TransformerReader):
            return self.temporal.over_windows(tokens, valid, age_encoding(T, H, tokens.device))
        return self.temporal(windows(tokens, T).reshape(-1, T, H), valid.unsqueeze(2).expand(R, C, P, T).reshape(-1, T))

    def _read_neighbors(self, nodes: Tensor, edges: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the temporal output over the tokens (M, H) that each node hears, in the team's order: (M, H)."""
        place = places[1]
        M, N = len(nodes), int(place.max()) + 1
        known = torch.zeros(M, N, dtype=torch.bool, device=nodes.device)
        sender = torch.zeros(M, N, dtype=torch.long, device=nodes.device)
        known[edges[1], place[edges[0]]] = True
        sender[edges[1], place[edges[0]]] = edges[0]
        mark = torch.nn.functional.one_hot(place, N).unsqueeze(-1) * self.own_mark
        sequence = nodes[sender] * known.unsqueeze(-1) + mark  # (M, N, H)
        return self.temporal(sequence, known, place)

    def _project(self, messages: Tensor, layout: MessageLayout) -> tuple[Tensor, Tensor]:
        """Embeds messages (R, S, P, F) by the layers of each sender's class: tokens (R, S, P, H), classes (R, S, P)."""
        lead, messages = messages.shape[:-1], messages.flatten(0, 2)
        one_hot = messages[:, layout.one_hot]
        classes = one_hot.argmax(-1)
        out = messages.new_empty(len(messages), self.config.hidden_dim)
        for k, (encoder, own_dim) in enumerate(zip(self.classes, self.senses.own, strict=True)):
            rows = classes == k
            of_class = messages[rows]
            entities: dict[str, tuple[Tensor, Tensor | None]] = {}
            for kind, dim in self.senses.kinds.items():
                seen = of_class[:, layout.seen(kind)] > 0
                if layout.counts[kind] and seen.any():  # an unseen set contributes nothing
                    values = of_class[:, layout.entities(kind)].unflatten(1, (-1, dim))
                    entities[kind] = values, None if seen.all() else seen.unsqueeze(1).expand(values.shape[:2])
            out[rows] = encoder(torch.cat([of_class[:, :own_dim], one_hot[rows]], dim=-1), entities)
        return out.relu().view(*lead, -1), classes.view(lead)
