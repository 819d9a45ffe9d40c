"""The embedding of an observer and any number of entities around it in one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_tag.nn.precision import Precision, Product


class EntityEncoder(nn.Module):
    r"""Embeds an observer's own numbers and sets of entities of any size and order.

    .. math::
        h = W x + \sum_k V_k \max_j \mathrm{ReLU}(U_k [p_{kj} - p, e_{kj}] + b_k)

    over the kinds k of entities. The first two numbers of an entity, and of the observer, are its position p. An empty
    or fully masked set contributes nothing. The observer acts on positions relative to itself; receivers of its
    message are elsewhere and need absolute positions.

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
        self.own = nn.Linear(own_dim, hidden_dim)
        self.entity = nn.ModuleDict({kind: nn.Linear(2 + dim, hidden_dim) for kind, dim in kinds.items()})
        self.pooled = nn.ModuleDict({kind: Product(hidden_dim, hidden_dim, False, precision) for kind in kinds})

    def forward(
        self, own: Tensor, entities: Mapping[str, Tensor], counts: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Embeds observers.

        Args:
            own: (..., own_dim).
            entities: For each kind, its entities (..., K, dim). A kind without entities may be omitted. Observers that
                see the same share an axis of length 1, and the entities are embedded only once for them.
            counts: For each kind of which not all entities count, those that do: (..., K) booleans. Default: none.

        Returns:
            (..., H).
        """
        out = self.own(own)
        for kind, values in entities.items():
            if values.shape[-2]:
                # U [p_j - p, e_j] = U' e_j - U_p p, where U' acts on e_j alone. U_p p is the same for all j, so it is
                # subtracted after the maximum.
                layer = self.entity[kind]
                assert isinstance(layer, nn.Linear)
                relative, absolute = layer.weight.split([2, values.shape[-1]], dim=1)
                weight = absolute + functional.pad(relative, (0, values.shape[-1] - 2))
                embedded = functional.linear(values, weight, layer.bias)
                if counts is not None and kind in counts:
                    embedded = embedded.masked_fill(~counts[kind].unsqueeze(-1), -torch.inf)
                highest = embedded.amax(-2)
                out = out + self.pooled[kind]((highest - functional.linear(own[..., :2], relative)).relu())
        return out
