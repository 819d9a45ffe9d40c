"""The embedding of an observer and any number of entities around it in one vector."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rllib_tag.nn.products import Narrow, Precision, Product, narrow
from rllib_tag.nn.team import at


class EntityEncoder(nn.Module):
    r"""Embeds an observer's own numbers and sets of entities of any size and order.

    .. math::
        h = W x + \sum_k V_k \max_j \mathrm{ReLU}(U_k [p_{kj} - p, e_{kj}] + b_k)

    over the kinds k of entities. The first two numbers of an entity, and of the observer, are its position p. A set
    that is empty, or in which the observer is alone, contributes nothing. The observer acts on positions relative to
    itself; receivers of its message are elsewhere and need absolute positions.

    Args:
        own_dim: How many numbers describe the observer.
        kinds: For each kind, how many numbers describe an entity.
        hidden_dim: H.
        precision: Of the products of H numbers. What positions are multiplied with stays float32. Default: `float32`.

    Source: PointNet (Qi et al. 2017) for the maximum over a set.
    """

    def __init__(
        self, own_dim: int, kinds: Mapping[str, int], hidden_dim: int, precision: Precision = "float32"
    ) -> None:
        super().__init__()
        self.own = Narrow(own_dim, hidden_dim)
        self.entity = nn.ModuleDict({kind: Narrow(2 + dim, hidden_dim) for kind, dim in kinds.items()})
        self.pooled = nn.ModuleDict({kind: Product(hidden_dim, hidden_dim, False, precision) for kind in kinds})

    def forward(
        self, own: Tensor, entities: Mapping[str, Tensor], itself: Mapping[str, Tensor] | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Embeds observers.

        Args:
            own: (..., own_dim).
            entities: For each kind, its entities (..., K, dim). A kind without entities may be omitted. Observers that
                see the same share an axis of length 1, and the entities are embedded only once for them.
            itself: For each kind that the n observers (S, n, own_dim) belong to, their indices among its entities
                (S, 1, K, dim): (n,), or (S, n) if they differ. They do not see themselves. Default: none.
            present: For each kind of which some entities may not be there, which ones are, (..., K) booleans. Default:
                all are.

        Returns:
            (..., H).
        """
        out = self.own(own)
        for kind, values in entities.items():
            if values.shape[-2]:
                # U [p_j - p, e_j] = U' e_j - U_p p, where U' acts on e_j alone. U_p p is the same for all j, so it is
                # subtracted after the maximum.
                layer = self.entity[kind]
                assert isinstance(layer, Narrow)
                relative, absolute = layer.weight.split([2, values.shape[-1]], dim=1)
                weight = absolute + functional.pad(relative, (0, values.shape[-1] - 2))
                embedded = only(narrow(values, weight, layer.bias), (present or {}).get(kind))
                if itself is not None and kind in itself:
                    found = highest(embedded.squeeze(1), itself[kind])
                else:
                    found = highest(embedded)
                out = out + self.pooled[kind]((found + narrow(own[..., :2], -relative)).relu())
        return out


def only(values: Tensor, present: Tensor | None) -> Tensor:
    """Returns values (..., K, H) of the entities that there are, (..., K) or None for all, and -inf for the others."""
    return values if present is None else values.masked_fill(~present.unsqueeze(-1), -torch.inf)


def highest(values: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Returns the maximum over a set.

    Args:
        values: (..., K, H).
        left_out: If given, n indices (n,), or (S, n) if they differ, of what each maximum leaves out, for values
            (S, K, H). Default: none.

    Returns:
        (..., H), or (S, n, H) with `left_out`; -inf where nothing is left.
    """
    result: Tensor = _Highest.apply(values, left_out)
    return result


class _Highest(torch.autograd.Function):
    """`highest`. With `left_out`, autograd would lay out all S * n * K pairs, in both directions.

    The backward pass compares by differences, because a CPU takes several times as long for booleans.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, left_out: Tensor | None) -> Tensor:
        if left_out is None:
            found = values.amax(-2)
        else:
            steps = values.unbind(1)
            none = torch.full_like(steps[0], -torch.inf)
            before = list(itertools.accumulate(steps[:-1], torch.maximum, initial=none))
            after = list(itertools.accumulate(steps[:0:-1], torch.maximum, initial=none))
            found = at(torch.stack([*map(torch.maximum, before, reversed(after))], dim=1), left_out)
        ctx.save_for_backward(values, left_out, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Returns the gradient of values; of those that tie, the first one gets it."""
        values, left_out, found = ctx.saved_tensors
        grads = []
        for k, value in enumerate(values.unbind(-2)):
            below = (value if left_out is None else value.unsqueeze(1)) - found
            here = torch.ops.aten.threshold_backward(grad, below, -torch.finfo(below.dtype).tiny)  # 0 where below
            if left_out is not None:
                here *= (left_out != k).unsqueeze(-1)
            grads.append(here if left_out is None else here.sum(1))
            grad = grad - here
        return torch.stack(grads, dim=-2), None
