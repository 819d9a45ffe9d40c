"""Graph layers over the links of teams."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.entities import highest, only
from rllib_tag.nn.pairs import DensePairs, SparsePairs
from rllib_tag.nn.products import Narrow, Precision, Product, narrow
from rllib_tag.nn.team import at
from rllib_tag.world.layout import Senses

SLOPE = 0.2  # of the LeakyReLU in attention scores, as in torch-geometric
# Up to how many senders a layer computes all pairs; with more, only the linked ones, by torch-geometric. With a third
# of the pairs linked, as in tag with 32 adversaries, this was the largest size tried on a CPU. All pairs took at most
# 1.3 times as long in teams of 8 to 32, and half as long in larger ones.
LARGEST_DENSE = 128


class Seen(NamedTuple):
    """What the agents of one class see of S team states, for the first layer to place around each receiver.

    Args:
        senders: The indices of the class's n agents in the team.
        entities: For each kind that the class sees, (S, n, K, D).
        present: For each kind of which some entities may not be there, which ones are, (S, n, K) booleans.
    """

    senders: slice
    entities: Mapping[str, Tensor]
    present: Mapping[str, Tensor] = {}

    @property
    def size(self) -> int:
        """The number of the class's agents."""
        return self.senders.stop - self.senders.start

    @staticmethod
    def by_class(
        sizes: Iterable[int], entities: Iterable[Mapping[str, Tensor]],
        present: Iterable[Mapping[str, Tensor]] | None = None,
    ) -> list[Seen]:  # fmt: skip
        """Returns what each class of a team sees, given the numbers of agents, the entities and which of them exist."""
        senders = [slice(*ends) for ends in pairwise(itertools.accumulate(sizes, initial=0))]
        given = [{}] * len(senders) if present is None else present
        return [Seen(*each) for each in zip(senders, entities, given, strict=True)]


class GraphEncoder(nn.Module):
    r"""Message-passing layers, each with a skip connection.

    .. math::
        x_i \leftarrow \mathrm{ELU}\bigl(S x_i + \sum_c \mathrm{conv}_c(x_i, \{m_j\}_{j \in c})\bigr)

    With `relational`, a layer has one convolution for the links from each class c of senders and adds their outputs.
    Attention, or the mean, is taken within a class, so that the weight of one class does not depend on how many agents
    of another class talk. Otherwise, one convolution hears all classes.

    Args:
        in_dim: The number of input features of a node.
        config: The network's configuration.
        senses: The sizes of what is seen in the game.

    Source: Schlichtkrull et al. 2018 for relations and the mean, Busbridge et al. 2019 (within-relation attention).
    """

    def __init__(self, in_dim: int, config: CommConfig, senses: Senses) -> None:
        super().__init__()
        self.num_relations = len(senses.classes) if config.relational else 1
        dims = [in_dim] + [config.hidden_dim] * config.gnn_layers
        self.skips = nn.ModuleList(
            Product(before, after, precision=config.precision) for before, after in pairwise(dims)
        )
        self.convs = nn.ModuleList()
        if config.gnn != "none":
            for layer, before in enumerate(dims[:-1]):
                kinds = senses.kinds if layer == 0 else {}
                for _ in range(self.num_relations):
                    self.convs.append(Convolution(before, config, kinds))

    def forward(
        self, nodes: Tensor, links: Tensor, positions: Tensor, seen: Sequence[Seen], answers: Tensor | None = None,
        weights: list[Tensor] | None = None, sent: list[Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Passes messages in S team states.

        Args:
            nodes: (S, N, in_dim).
            links: (S, N, N) booleans, [receiver, sender], true on the diagonal.
            positions: (S, N, 2).
            seen: What each class sees.
            answers: The indices of the n nodes whose output is needed: (n,), or (S, n) if they differ. Default: all.
            weights: If given, it gets the attention of each layer, averaged over the heads, (S, N, N). The weights of a
                receiver's links add up to 1. With several relations, the classes that it hears share this equally.
                Default: None.
            sent: If given, it gets what all agents send in each layer, (S, N, message_dim). Default: None.

        Returns:
            (S, n, H).
        """
        for i, skip in enumerate(self.skips):
            last = answers if i == len(self.skips) - 1 else None
            asking, linked, places = (at(each, last) for each in (nodes, links, positions))
            out, shares, messages = skip(asking), [], []
            for conv, senders, parts in self.relations(i, seen):
                messages.append(conv.message(nodes[:, senders], positions[:, senders], parts))
                heard, share = conv(messages[-1], asking, places, linked[:, :, senders], parts)
                out = out + heard
                shares.append(share)
            if sent is not None:
                sent.append(torch.cat(messages, dim=1))
            if weights is not None and shares:
                joined = torch.cat(shares, dim=-1)
                weights.append(joined / joined.sum(-1, keepdim=True))
            nodes = functional.elu(out)
        return nodes

    def relations(self, layer: int, seen: Sequence[Seen]) -> Iterator[tuple[Convolution, slice, Sequence[Seen]]]:
        """Yields a layer's convolutions, each with the senders that it hears and what their classes see."""
        groups = [(slice(None), seen)] if self.num_relations == 1 else [(part.senders, [part]) for part in seen]
        for conv, (senders, parts) in zip(self.convs[layer * self.num_relations :], groups, strict=False):
            assert isinstance(conv, Convolution)
            yield conv, senders, parts


class Convolution(nn.Module):
    r"""What receivers make of the messages of linked senders: attention (`gat`, `gatv2`) or the mean over them.

    With `frame: absolute`, it is torch-geometric's layer on the graph of each team, with the same names of weights:
    `GATConv`, `GATv2Conv`, or `SAGEConv(aggr="mean", root_weight=False)` for `mean`, without biases, and with no
    self-loops other than the given ones. There is no graph convolution (GCN): its symmetric normalization divides by
    each sender's number of links, which would tell a node about agents beyond its reach.

    With `frame: receiver`, a message also says where things are, and is read relative to the receiver:

    .. math::
        z_{ij} = W m_j - U_{c(j)} p_i, \qquad m_j = M x_j + P p_j + \sum_k \max_e P_k e_{jk}

    where p are positions and e_jk are the entities of kind k that j sees. U_c is what acts on positions in P and in the
    P_k of the kinds that class c sees, multiplied by W, so that moving everything by a vector changes z_ij only through
    x_j. Then `gat` attends by LeakyReLU(a ReLU(z_ij) + b W M x_i), `gatv2` by a LeakyReLU(z_ij + R x_i), and the output
    is V (sum of weight times ReLU(z_ij)). The receiver need not learn to subtract through its own nonlinearity. Without
    `message_dim`, W is the identity and M is the layer's own weight; with it, M maps to `message_dim` numbers and W is
    the layer's own weight.

    Args:
        in_dim: The number of input features of a node.
        config: The network's configuration.
        kinds: The size of an entity, by kind, of what the senders see and the layer places; empty in later layers.

    Source: Velickovic et al. 2018; Brody et al. 2022; Hamilton et al. 2017 for the mean.
    """

    def __init__(self, in_dim: int, config: CommConfig, kinds: Mapping[str, int]) -> None:
        super().__init__()
        self.gnn, self.heads = config.gnn, config.num_heads
        hidden, heads, precision = config.hidden_dim, config.num_heads, config.precision
        said = in_dim if config.message_dim is None else config.message_dim
        width = hidden if config.message_dim is None else config.message_dim
        self.send = None if config.message_dim is None else _linear(in_dim, said, precision)
        if self.gnn == "gatv2":
            self.lin_l, self.lin_r = (_linear(size, hidden, precision) for size in (said, in_dim))
            self.att = _attention(heads, hidden // heads)
        else:
            self.lin = _linear(said, hidden, precision)
            if self.gnn == "gat":
                self.att_src, self.att_dst = (_attention(heads, hidden // heads) for _ in range(2))
        self.frame = config.frame
        if self.frame == "receiver":
            self.value = _linear(hidden, hidden, precision)
            self.placement = Placement(kinds, width)

    def forward(
        self, messages: Tensor, asking: Tensor, places: Tensor, links: Tensor, seen: Sequence[Seen]
    ) -> tuple[Tensor, Tensor]:
        """Hears.

        Args:
            messages: (S, m, message_dim), class by class.
            asking: (S, n, in_dim), the nodes of the receivers.
            places: (S, n, 2), their positions.
            links: (S, n, m) booleans, [receiver, sender].
            seen: For each class of senders, how many there are and which kinds of entities they see.

        Returns:
            (S, n, H), and the weight of each sender, averaged over the heads, (S, n, m). A receiver that is linked to
            no sender gets zeros.
        """
        # Messages may hold absolute positions, of which bfloat16 would leave three digits.
        heard = messages if self.send is None else functional.linear(messages, self._lin.weight)  # (S, m, H)
        relative = self.frame == "receiver"
        classes = [part.size for part in seen] if relative else [links.shape[-1]]
        pairs = (DensePairs if links.shape[-1] <= LARGEST_DENSE else SparsePairs)(links, classes)
        if relative:
            placed = self._shift(places, seen)
            weights = self._weights(pairs, asking, heard, placed)
            out = self.value(pairs.sums(weights, heard, placed))
        else:
            weights = self._weights(pairs, asking, heard, None)
            out = pairs.weighed(weights, self._split(heard)).flatten(2)
        return out, pairs.dense(weights.mean(-1))

    def message(self, nodes: Tensor, positions: Tensor, seen: Sequence[Seen]) -> Tensor:
        """Returns what m senders at positions (S, m, 2) send over each of their links: (S, m, message_dim)."""
        out = (self._lin if self.send is None else self.send)(nodes)
        return out if self.frame == "absolute" else out + self.placement(positions, seen)

    def _shift(self, places: Tensor, seen: Sequence[Seen]) -> Tensor:
        """Returns what receivers at places (S, n, 2) add to what each class says: (S, n, classes, H)."""
        shifts = torch.stack([self.placement.shift(part.entities) for part in seen])
        if self.send is not None:
            shifts = self._lin.weight @ shifts  # (classes, H, 2)
        return narrow(places, -shifts.flatten(0, 1)).unflatten(-1, shifts.shape[:2])

    def _weights(self, pairs: DensePairs | SparsePairs, asking: Tensor, heard: Tensor, placed: Tensor | None) -> Tensor:
        """Returns the weight of each sender for each receiver: (..., heads), with the leading axes of pairs.

        Args:
            pairs: The pairs.
            asking: (S, n, in_dim), the nodes of the receivers.
            heard: (S, m, H), what the senders say.
            placed: (S, n, classes, H), what the receivers add to it; None for nothing.
        """
        if self.gnn == "mean":
            return torch.stack([pairs.even().to(heard.dtype)] * self.heads, dim=-1)
        if self.gnn == "gatv2":
            asked = self.lin_r(asking).unsqueeze(2)
            scores = pairs.dots(heard, asked if placed is None else asked + placed, self.att[0], SLOPE)
        else:
            asks = asking if self.send is None else self.send(asking)
            asked = functional.linear(asks, torch.block_diag(*self.att_dst[0].unsqueeze(1)) @ self.lin.weight)
            if placed is None:
                said = functional.linear(heard, torch.block_diag(*self.att_src[0].unsqueeze(1)))
                scores = pairs.of_senders(said) + pairs.of_receivers(asked)
            else:
                scores = pairs.dots(heard, placed, self.att_src[0], slope=0) + pairs.of_receivers(asked)
            scores = functional.leaky_relu(scores, SLOPE)
        return pairs.normalized(scores)

    @property
    def _lin(self) -> nn.Linear:
        return self.lin_l if self.gnn == "gatv2" else self.lin

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1))


class Placement(nn.Module):
    r"""Where senders and what they see are.

    .. math::
        P p + \sum_k \max_e P_k e

    over the kinds k of entities e that the sender's class sees. If there are none of a kind, the sender's own position
    takes their place. So moving everything by a vector adds a linear function of the vector, the same for a class.

    Args:
        kinds: The size of an entity, by kind.
        width: The length of the result.
    """

    def __init__(self, kinds: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.own = _narrow(2, width)
        self.entities = nn.ModuleDict({kind: _narrow(dim, width) for kind, dim in kinds.items()})

    def forward(self, positions: Tensor, seen: Sequence[Seen]) -> Tensor:
        """Returns (S, m, width) for the positions (S, m, 2) of senders, class by class, and what each class sees."""
        out = self.own(positions)
        if not self.entities:
            return out
        placed = []
        sizes = [part.size for part in seen]
        for own, places, part in zip(out.split(sizes, dim=1), positions.split(sizes, dim=1), seen, strict=True):
            near = (self._near(kind, places, part) for kind in self.entities if kind in part.entities)
            placed.append(functools.reduce(torch.add, near, own))
        return torch.cat(placed, dim=1)

    def _near(self, kind: str, places: Tensor, seen: Seen) -> Tensor:
        """Returns what senders of one class, at places (S, n, 2), see of a kind: (S, n, width)."""
        layer, entities, present = self.entities[kind], seen.entities[kind], seen.present.get(kind)
        assert isinstance(layer, Narrow)
        itself = narrow(places, layer.weight[:, :2])
        if not entities.shape[-2]:
            return itself
        found = highest(only(layer(entities), present))
        return found if present is None else torch.where(present.any(-1, keepdim=True), found, itself)

    def shift(self, kinds: Container[str]) -> Tensor:
        """Returns the matrix (width, 2) by which the result moves with everything, given the kinds of entities."""
        shift: Tensor = self.own.weight
        for kind, layer in self.entities.items():
            if kind in kinds:
                assert isinstance(layer, Narrow)
                shift = shift + layer.weight[:, :2]
        return shift


def _linear(in_dim: int, out_dim: int, precision: Precision) -> Product:
    layer = Product(in_dim, out_dim, False, precision)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def _narrow(in_dim: int, out_dim: int) -> Narrow:
    layer = Narrow(in_dim, out_dim, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def _attention(heads: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, heads, width)))
