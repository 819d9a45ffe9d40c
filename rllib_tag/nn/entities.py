"""One observer and any number of entities around it, in one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EntityEncoder(nn.Module):
    r"""Embeds an observer's own numbers and sets of entities, whatever their number and order.

    .. math::
        h = W x + \sum_k V_k \max_j \mathrm{ReLU}(U_k e_{kj})

    over the kinds k of entities; an empty or fully masked set adds nothing.

    Args:
        own_dim: Numbers that describe the observer.
        kinds: For each kind of entity, the numbers that describe one.
        hidden_dim: H.

    Source: PointNet (Qi et al. 2017) for the maximum over a set.
    """

    def __init__(self, own_dim: int, kinds: Mapping[str, int], hidden_dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(own_dim, hidden_dim)
        self.entity = nn.ModuleDict({kind: nn.Linear(dim, hidden_dim) for kind, dim in kinds.items()})
        self.pooled = nn.ModuleDict({kind: nn.Linear(hidden_dim, hidden_dim, bias=False) for kind in kinds})

    def forward(self, own: Tensor, entities: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Embeds M observers.

        Args:
            own: (M, own_dim).
            entities: For each kind, its entities (M, K, dim) and which of them count, (M, K) booleans.
                A kind with no entity may be left out.

        Returns:
            (M, H).
        """
        out = self.own(own)  # (M, H)
        for kind, (values, counts) in entities.items():
            if values.shape[1]:
                embedded = self.entity[kind](values)  # (M, K, H)
                if not counts.all():
                    embedded = embedded * counts.unsqueeze(-1)
                # The ReLU of the maximum, with 0 for what does not count, is the maximum of the ReLUs.
                out = out + self.pooled[kind](embedded.amax(1).relu())
        return out


def placed(positions: Tensor, entities: Tensor) -> Tensor:
    """Entities (M, K, D), whose first two numbers are a position, with where they are from (M, 2): (M, K, 2 + D).

    The observer acts by what is relative to itself; who hears of it stands elsewhere and needs the absolute position.
    """
    return torch.cat([entities[..., :2] - positions.unsqueeze(1), entities], dim=-1)
