"""Graph layers over the links, by torch-geometric."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv

from rllib_tag.nn.config import Gnn


class GraphEncoder(nn.Module):
    r"""Layers of message passing, each with a skip connection.

    .. math::
        x \leftarrow \mathrm{ELU}(S x + \mathrm{conv}(x, E))

    `gat` and `gatv2` attend with `num_heads` heads whose outputs are joined. `gcn` takes the mean over
    the links that a node hears (weights 1 / in-degree), because the symmetric norm would tell a node the
    degree of senders beyond its reach. `none` leaves the convolution out.

    Args:
        in_dim: Numbers of a node.
        hidden_dim: H.
        num_heads: Heads of the attention.
        num_layers: Layers.
        gnn: Which convolution.

    Source: Velickovic et al. 2018; Brody et al. 2022; Kipf & Welling 2017; torch_geometric.nn.conv.
    """

    def __init__(self, in_dim: int, hidden_dim: int, num_heads: int, num_layers: int, gnn: Gnn) -> None:
        super().__init__()
        self.gnn = gnn
        dims = [in_dim] + [hidden_dim] * num_layers
        self.skips = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(dims))
        self.convs = nn.ModuleList()
        for before, after in pairwise(dims):
            if gnn == "gcn":
                self.convs.append(GCNConv(before, after, add_self_loops=False, normalize=False, bias=False))
            elif gnn != "none":
                kind = GATConv if gnn == "gat" else GATv2Conv
                self.convs.append(kind(before, after // num_heads, heads=num_heads, add_self_loops=False, bias=False))

    def forward(self, nodes: Tensor, edges: Tensor, answers: Tensor | None = None) -> Tensor:
        """Passes messages.

        Args:
            nodes: (M, in_dim).
            edges: (2, E) indices, senders over receivers; every node is linked to itself.
            answers: (P,) indices of the nodes whose results are asked for. Default: all.

        Returns:
            (P, H), or (M, H) for all.
        """
        return self._run(nodes, edges, answers, None)

    def attention(self, nodes: Tensor, edges: Tensor) -> list[Tensor]:
        """The attention of each layer on each edge, mean over the heads: `num_layers` times (E,).

        Without attention in the layer: the weight that the edge has in the mean (`gcn`), or nothing (`none`).
        """
        weights: list[Tensor] = []
        self._run(nodes, edges, None, weights)
        return weights

    def _run(self, nodes: Tensor, edges: Tensor, answers: Tensor | None, weights: list[Tensor] | None) -> Tensor:
        for i, skip in enumerate(self.skips):
            asked = answers if i == len(self.skips) - 1 else None
            out = skip(nodes if asked is None else nodes[asked])
            if self.gnn != "none":
                if asked is not None:
                    is_asked = torch.zeros(len(nodes), dtype=torch.bool, device=nodes.device)
                    is_asked[asked] = True
                    edges = edges[:, is_asked[edges[1]]]
                passed, weight = self._pass(self.convs[i], nodes, edges)
                out = out + (passed if asked is None else passed[asked])
                if weights is not None:
                    weights.append(weight)
            nodes = nn.functional.elu(out)
        return nodes

    def _pass(self, conv: nn.Module, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """What a convolution gives (M, H), and the weight of each edge (E,)."""
        if self.gnn == "gcn":
            degree = torch.zeros(len(nodes), device=nodes.device).index_add_(
                0, edges[1], torch.ones(edges.shape[1], device=nodes.device)
            )
            mean = 1 / degree[edges[1]]
            return conv(nodes, edges, mean), mean
        passed, (_, alpha) = conv(nodes, edges, return_attention_weights=True)
        return passed, alpha.mean(-1)
