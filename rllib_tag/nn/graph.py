"""Graph layers over the links, built on torch-geometric."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv

from rllib_tag.nn.config import Gnn


class GraphEncoder(nn.Module):
    r"""Message-passing layers, each with a skip connection.

    .. math::
        x \leftarrow \mathrm{ELU}(S x + \mathrm{conv}(x, E))

    `gat` and `gatv2` attend with `num_heads` heads and concatenate their outputs. `mean` averages over a node's
    incoming links, as `SAGEConv(aggr="mean", root_weight=False)` does. There is no graph convolution (GCN): its
    symmetric normalization divides by each sender's number of links, which would tell a node about agents beyond its
    reach. `none` omits the convolution.

    With several relations, a layer has one convolution for the links from each class of senders and adds their outputs.
    Attention, or the mean, is taken within a class, so that the weight of one class does not depend on how many agents
    of another class talk.

    Args:
        in_dim: The number of input features of a node.
        hidden_dim: H.
        num_heads: The number of attention heads.
        num_layers: The number of layers.
        gnn: The kind of convolution.
        num_relations: The number of sender classes, each with its own convolution; 1 is one convolution for all.
            Default: 1.

    Source: Velickovic et al. 2018; Brody et al. 2022; Hamilton et al. 2017 for the mean; torch_geometric.nn.conv.
    Relations: Schlichtkrull et al. 2018 for the mean, Busbridge et al. 2019 (within-relation attention).
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, num_heads: int, num_layers: int, gnn: Gnn, num_relations: int = 1
    ) -> None:
        super().__init__()
        self.gnn, self.num_relations = gnn, num_relations
        dims = [in_dim] + [hidden_dim] * num_layers
        self.skips = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(dims))
        self.convs = nn.ModuleList()
        for before, after in (pair for pair in pairwise(dims) for _ in range(num_relations)):
            if gnn == "mean":
                self.convs.append(GCNConv(before, after, add_self_loops=False, normalize=False, bias=False))
            elif gnn != "none":
                kind = GATConv if gnn == "gat" else GATv2Conv
                self.convs.append(kind(before, after // num_heads, heads=num_heads, add_self_loops=False, bias=False))

    def forward(self, nodes: Tensor, edges: Tensor, classes: Tensor, answers: Tensor | None = None) -> Tensor:
        """Passes messages.

        Args:
            nodes: (M, in_dim).
            edges: (2, E) node indices, senders in the first row and receivers in the second; every node is linked to
                itself.
            classes: (M,) the class index of each node; only used with several relations.
            answers: (P,) indices of the nodes whose output is needed. Default: all.

        Returns:
            (P, H), or (M, H) for all.
        """
        return self._run(nodes, edges, classes, answers, None)

    def attention(self, nodes: Tensor, edges: Tensor, classes: Tensor) -> list[Tensor]:
        """Returns the attention of each layer on each edge, averaged over the heads: `num_layers` tensors (E,).

        The weights of a receiver's edges add up to 1. With several relations, the classes that it hears share this
        equally. Layers without attention return the weight of the edge in the mean (`mean`), or nothing (`none`).
        """
        weights: list[Tensor] = []
        self._run(nodes, edges, classes, None, weights)
        return weights

    def _run(
        self, nodes: Tensor, edges: Tensor, classes: Tensor, answers: Tensor | None, weights: list[Tensor] | None
    ) -> Tensor:
        for i, skip in enumerate(self.skips):
            asked = answers if i == len(self.skips) - 1 else None
            out = skip(nodes if asked is None else nodes[asked])
            if self.gnn != "none":
                if asked is not None:
                    is_asked = torch.zeros(len(nodes), dtype=torch.bool, device=nodes.device)
                    is_asked[asked] = True
                    edges = edges[:, is_asked[edges[1]]]
                parts = self._by_relation(edges, classes)
                shares = []
                for k, chosen in enumerate(parts):
                    passed, share = self._pass(self.convs[i * len(parts) + k], nodes, edges[:, chosen])
                    out = out + (passed if asked is None else passed[asked])
                    shares.append(share)
                if weights is not None:
                    weights.append(_joined(edges[1], parts, shares))
            nodes = nn.functional.elu(out)
        return nodes

    def _by_relation(self, edges: Tensor, classes: Tensor) -> list[Tensor | slice]:
        """Returns which edges each convolution of a layer uses."""
        if self.num_relations == 1:
            return [slice(None)]
        sender = classes[edges[0]]
        return [sender == k for k in range(self.num_relations)]

    def _pass(self, conv: nn.Module, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output of a convolution (M, H), and the weight of each edge (E,)."""
        if self.gnn == "mean":
            degree = torch.zeros(len(nodes), device=nodes.device).index_add_(
                0, edges[1], torch.ones(edges.shape[1], device=nodes.device)
            )
            mean = 1 / degree[edges[1]]
            return conv(nodes, edges, mean), mean
        passed, (_, alpha) = conv(nodes, edges, return_attention_weights=True)
        return passed, alpha.mean(-1)


def _joined(receivers: Tensor, parts: list[Tensor | slice], shares: list[Tensor]) -> Tensor:
    """Joins the edge weights of all parts to (E,), normalized to add up to 1 for each receiver, as in each part."""
    out = shares[0].new_zeros(len(receivers))
    for chosen, share in zip(parts, shares, strict=True):
        out[chosen] = share
    return out / out.new_zeros(int(receivers.max()) + 1).index_add_(0, receivers, out)[receivers]
