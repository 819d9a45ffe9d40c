"""Pairs of receivers and senders in team states: all of them on dense arrays, or only those that are linked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

UNLINKED = -1e30  # a score whose weight is exactly 0, finite because a receiver may be linked to nobody of a class


class DensePairs:
    """All pairs of n receivers and m senders in S states, of which only the linked ones count: axes (S, n, m).

    Args:
        links: (S, n, m) booleans.
    """

    def __init__(self, links: Tensor) -> None:
        self.links = links

    def of_senders(self, values: Tensor) -> Tensor:
        """Returns the senders' values (S, m, ...) by pair."""
        return values.unsqueeze(1)

    def of_receivers(self, values: Tensor) -> Tensor:
        """Returns the receivers' values (S, n, ...) by pair."""
        return values.unsqueeze(2)

    def of_classes(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Returns the receivers' values (S, n, classes, ...) for each sender's class by pair."""
        return values if len(sizes) == 1 else values[:, :, _classes(sizes, values.device)]

    def normalized(self, scores: Tensor) -> Tensor:
        """Returns the softmax of scores (S, n, m, heads) over each receiver's linked senders."""
        linked = self.links.unsqueeze(-1)
        return scores.masked_fill(~linked, UNLINKED).softmax(2) * linked

    def even(self) -> Tensor:
        """Returns equal weights."""
        return self.links / self.links.sum(-1, keepdim=True).clamp(min=1)

    def weigh(self, weights: Tensor, values: Tensor) -> Tensor:
        """Returns each receiver's weighted sum of values (S, n, m, heads, d): (S, n, heads, d)."""
        return (weights.unsqueeze(-1) * values).sum(2)

    def weigh_senders(self, weights: Tensor, values: Tensor) -> Tensor:
        """Returns each receiver's weighted sum of the senders' values (S, m, heads, d): (S, n, heads, d)."""
        return torch.einsum("snmh,smhd->snhd", weights, values)

    def dense(self, values: Tensor) -> Tensor:
        """Returns values by pair as (S, n, m)."""
        return values


class SparsePairs:
    """The E linked pairs of n receivers and m senders in S states: axis (E,).

    Args:
        links: (S, n, m) booleans.
    """

    def __init__(self, links: Tensor) -> None:
        self.shape, self.state_receiver_sender = links.shape, links.nonzero(as_tuple=True)
        self.state, receiver, self.sender = self.state_receiver_sender
        self.receiver = self.state * links.shape[1] + receiver  # among all S * n

    def of_senders(self, values: Tensor) -> Tensor:
        """Returns the senders' values (S, m, ...) by pair."""
        return values[self.state, self.sender]

    def of_receivers(self, values: Tensor) -> Tensor:
        """Returns the receivers' values (S, n, ...) by pair."""
        return values.flatten(0, 1)[self.receiver]

    def of_classes(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Returns the receivers' values (S, n, classes, ...) for each sender's class by pair."""
        return values.flatten(0, 1)[self.receiver, _classes(sizes, values.device)[self.sender]]

    def normalized(self, scores: Tensor) -> Tensor:
        """Returns the softmax of scores (E, heads) over each receiver's senders."""
        from torch_geometric.utils import softmax  # takes a second, which only large teams need

        return softmax(scores, self.receiver, num_nodes=self.shape[0] * self.shape[1])

    def even(self) -> Tensor:
        """Returns equal weights."""
        return 1 / self._sum(torch.ones_like(self.receiver, dtype=torch.float32))[self.receiver]

    def weigh(self, weights: Tensor, values: Tensor) -> Tensor:
        """Returns each receiver's weighted sum of values (E, heads, d): (S, n, heads, d)."""
        return self._sum(weights.unsqueeze(-1) * values).unflatten(0, self.shape[:2])

    def weigh_senders(self, weights: Tensor, values: Tensor) -> Tensor:
        """Returns each receiver's weighted sum of the senders' values (S, m, heads, d): (S, n, heads, d)."""
        return self.weigh(weights, self.of_senders(values))

    def dense(self, values: Tensor) -> Tensor:
        """Returns values by pair as (S, n, m), 0 where there is no link."""
        return values.new_zeros(self.shape).index_put(self.state_receiver_sender, values)

    def _sum(self, values: Tensor) -> Tensor:
        from torch_geometric.utils import scatter

        return scatter(values, self.receiver, dim_size=self.shape[0] * self.shape[1])


def _classes(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Returns the class of each sender, given the sizes of the classes."""
    return torch.cat([torch.full((size,), k, device=device) for k, size in enumerate(sizes)])
