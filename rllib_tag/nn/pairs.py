"""Pairs of receivers and senders in team states: all of them on dense arrays, or only those that are linked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

UNLINKED = -1e30  # a score whose weight is exactly 0, finite because a receiver may be linked to nobody of a class


class DensePairs:
    """All pairs of n receivers and m senders in S states, of which only the linked ones count: axes (S, n, m).

    Args:
        links: (S, n, m) booleans.
        classes: The numbers of senders of each class, which stand in this order; their sum is m.
    """

    def __init__(self, links: Tensor, classes: Sequence[int]) -> None:
        self.links = links
        self.class_of = [k for k, size in enumerate(classes) for _ in range(size)]

    def of_senders(self, values: Tensor) -> Tensor:
        """Returns the senders' values (S, m, ...) by pair."""
        return values.unsqueeze(1)

    def of_receivers(self, values: Tensor) -> Tensor:
        """Returns the receivers' values (S, n, ...) by pair."""
        return values.unsqueeze(2)

    def dots(self, heard: Tensor, own: Tensor, vectors: Tensor, slope: float) -> Tensor:
        """Returns each head's vector times LeakyReLU(what the sender says + what the receiver has for its class).

        Args:
            heard: (S, m, H).
            own: (S, n, classes, H).
            vectors: (heads, d) with H = heads * d.
            slope: Of the LeakyReLU.

        Returns:
            (..., heads) by pair.
        """
        apart = torch.block_diag(*vectors.unsqueeze(1))  # (heads, H)
        return _Dots.apply(heard, own, apart, slope, self.class_of)

    def normalized(self, scores: Tensor) -> Tensor:
        """Returns the softmax of scores (S, n, m, heads) over each receiver's linked senders."""
        linked = self.links.unsqueeze(-1)
        return scores.masked_fill(~linked, UNLINKED).softmax(2) * linked

    def even(self) -> Tensor:
        """Returns equal weights."""
        return self.links / self.links.sum(-1, keepdim=True).clamp(min=1)

    def weighed(self, weights: Tensor, values: Tensor) -> Tensor:
        """Returns each receiver's weighted sum of the senders' values (S, m, heads, d): (S, n, heads, d)."""
        return torch.einsum("snmh,smhd->snhd", weights, values)

    def sums(self, weights: Tensor, heard: Tensor, own: Tensor) -> Tensor:
        """Returns each receiver's weighted sum of ReLU(what the sender says + what it has for the sender's class).

        Args:
            weights: (..., heads) by pair.
            heard: (S, m, H).
            own: (S, n, classes, H).

        Returns:
            (S, n, H).
        """
        return _Sums.apply(weights, heard, own, self.class_of)

    def dense(self, values: Tensor) -> Tensor:
        """Returns values by pair as (S, n, m)."""
        return values


class _Dots(torch.autograd.Function):
    """`DensePairs.dots`, one sender at a time, so that what is in work stays in the cache of a CPU."""

    @staticmethod
    def forward(ctx: Any, heard: Tensor, own: Tensor, vectors: Tensor, slope: float, class_of: list[int]) -> Tensor:
        ctx.slope, ctx.class_of = slope, class_of
        ctx.save_for_backward(heard, own, vectors)
        scores = [
            functional.leaky_relu_(_summed(heard, own, j, k), slope) @ vectors.t() for j, k in enumerate(class_of)
        ]
        return torch.stack(scores, dim=2) if scores else own.new_zeros(*own.shape[:2], 0, len(vectors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        heard, own, vectors = ctx.saved_tensors
        of_heard, of_own, of_vectors = torch.empty_like(heard), torch.zeros_like(own), torch.zeros_like(vectors)
        for j, k in enumerate(ctx.class_of):
            summed, here = _summed(heard, own, j, k), grad[:, :, j]
            passed = torch.ops.aten.leaky_relu_backward(here @ vectors, summed, ctx.slope, False)
            of_heard[:, j] = passed.sum(1)
            of_own[:, :, k] += passed
            of_vectors += here.flatten(0, 1).t() @ functional.leaky_relu_(summed, ctx.slope).flatten(0, 1)
        return of_heard, of_own, of_vectors, None, None


class _Sums(torch.autograd.Function):
    """`DensePairs.sums`, one sender at a time, so that what is in work stays in the cache of a CPU."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, heard: Tensor, own: Tensor, class_of: list[int]) -> Tensor:
        ctx.class_of = class_of
        ctx.save_for_backward(weights, heard, own)
        heads = (weights.shape[-1], -1)
        out = own.new_zeros(*own.shape[:2], own.shape[-1]).unflatten(-1, heads)
        for j, k in enumerate(class_of):
            out.addcmul_(weights[:, :, j, :, None], _summed(heard, own, j, k).relu_().unflatten(-1, heads))
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weights, heard, own = ctx.saved_tensors
        of_weights, of_heard, of_own = torch.empty_like(weights), torch.empty_like(heard), torch.zeros_like(own)
        heads = (weights.shape[-1], -1)
        for j, k in enumerate(ctx.class_of):
            summed = _summed(heard, own, j, k)
            weighed = (weights[:, :, j, :, None] * grad.unflatten(-1, heads)).flatten(2)
            passed = torch.ops.aten.threshold_backward(weighed, summed, 0)
            of_heard[:, j] = passed.sum(1)
            of_own[:, :, k] += passed
            of_weights[:, :, j] = (summed.relu_() * grad).unflatten(-1, heads).sum(-1)
        return of_weights, of_heard, of_own, None


def _summed(heard: Tensor, own: Tensor, sender: int, of_class: int) -> Tensor:
    return heard[:, sender, None] + own[:, :, of_class]


class SparsePairs:
    """The E linked pairs of n receivers and m senders in S states: axis (E,).

    Args:
        links: (S, n, m) booleans.
        classes: The numbers of senders of each class, which stand in this order; their sum is m.
    """

    def __init__(self, links: Tensor, classes: Sequence[int]) -> None:
        self.shape, self.state_receiver_sender = links.shape, links.nonzero(as_tuple=True)
        self.state, receiver, self.sender = self.state_receiver_sender
        self.receiver = self.state * links.shape[1] + receiver  # among all S * n
        class_of = [torch.full((size,), k, device=links.device) for k, size in enumerate(classes)]
        self.sender_class = torch.cat(class_of)[self.sender]

    def of_senders(self, values: Tensor) -> Tensor:
        """Returns the senders' values (S, m, ...) by pair."""
        return values[self.state, self.sender]

    def of_receivers(self, values: Tensor) -> Tensor:
        """Returns the receivers' values (S, n, ...) by pair."""
        return values.flatten(0, 1)[self.receiver]

    def dots(self, heard: Tensor, own: Tensor, vectors: Tensor, slope: float) -> Tensor:
        """As `DensePairs.dots`."""
        passed = functional.leaky_relu(self._summed(heard, own), slope)
        return (passed.unflatten(-1, vectors.shape) * vectors).sum(-1)

    def normalized(self, scores: Tensor) -> Tensor:
        """Returns the softmax of scores (E, heads) over each receiver's senders."""
        from torch_geometric.utils import softmax  # takes a second, which only large teams need

        return softmax(scores, self.receiver, num_nodes=self.shape[0] * self.shape[1])

    def even(self) -> Tensor:
        """Returns equal weights."""
        return 1 / self._of_all(torch.ones_like(self.receiver, dtype=torch.float32))[self.receiver]

    def weighed(self, weights: Tensor, values: Tensor) -> Tensor:
        """Returns each receiver's weighted sum of the senders' values (S, m, heads, d): (S, n, heads, d)."""
        return self._of_all(weights.unsqueeze(-1) * self.of_senders(values)).unflatten(0, self.shape[:2])

    def sums(self, weights: Tensor, heard: Tensor, own: Tensor) -> Tensor:
        """As `DensePairs.sums`."""
        passed = self._summed(heard, own).relu().unflatten(-1, (weights.shape[-1], -1))
        return self._of_all(weights.unsqueeze(-1) * passed).view(*self.shape[:2], -1)

    def dense(self, values: Tensor) -> Tensor:
        """Returns values by pair as (S, n, m), 0 where there is no link."""
        return values.new_zeros(self.shape).index_put(self.state_receiver_sender, values)

    def _summed(self, heard: Tensor, own: Tensor) -> Tensor:
        return self.of_senders(heard) + own.flatten(0, 1)[self.receiver, self.sender_class]

    def _of_all(self, values: Tensor) -> Tensor:
        """Returns the sum of values by pair over each receiver's senders: (S * n, ...)."""
        from torch_geometric.utils import scatter

        return scatter(values, self.receiver, dim_size=self.shape[0] * self.shape[1])
