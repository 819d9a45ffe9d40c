"""What a sequence of tokens says at one of its places: transformer or GRU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class TransformerLayer(nn.Module):
    r"""A pre-norm transformer layer that answers for some of the tokens.

    .. math::
        y = q + W_O\,\mathrm{Attention}(\mathrm{LN}(q), \mathrm{LN}(x)), \qquad
        z = y + W_2\,\mathrm{ReLU}(W_1 \mathrm{LN}(y))

    With q = x this is `torch.nn.TransformerEncoderLayer(norm_first=True)` without dropout.

    Args:
        hidden_dim: H, a multiple of `num_heads`.
        num_heads: Attention heads.

    Source: Vaswani et al. 2017; Xiong et al. 2020 for the place of the norms.
    """

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(hidden_dim)
        self.norm_feedforward = nn.LayerNorm(hidden_dim)
        self.query = nn.Linear(hidden_dim, hidden_dim)
        self.key_value = nn.Linear(hidden_dim, 2 * hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        self.feedforward = nn.Sequential(
            nn.Linear(hidden_dim, 2 * hidden_dim), nn.ReLU(), nn.Linear(2 * hidden_dim, hidden_dim)
        )

    def forward(self, tokens: Tensor, valid: Tensor, place: Tensor | None = None) -> Tensor:
        """Attends among the valid tokens.

        Args:
            tokens: (M, S, H).
            valid: (M, S) booleans; at least one of each row is true.
            place: (M,) indices of the one token to answer for; None answers for all.

        Returns:
            (M, S, H), or (M, 1, H) with `place`.
        """
        normed = self.norm_attention(tokens)  # (M, S, H)
        if place is None:
            residual, asking = tokens, normed
        else:
            rows = torch.arange(len(tokens), device=tokens.device)
            residual, asking = tokens[rows, place].unsqueeze(1), normed[rows, place].unsqueeze(1)  # (M, 1, H)
        query = self._heads(self.query(asking))
        key, value = (self._heads(part) for part in self.key_value(normed).chunk(2, dim=-1))
        mask = valid[:, None, None, :]  # (M, 1, 1, S)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out = residual + self.out(attended.transpose(1, 2).flatten(2))
        return out + self.feedforward(self.norm_feedforward(out))

    def _heads(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (M, heads, S, H / heads)


class TransformerReader(nn.Module):
    """Transformer layers whose last one answers for one place only: nobody reads the others.

    Args:
        hidden_dim: H.
        num_heads: Attention heads.
        num_layers: Layers.
    """

    def __init__(self, hidden_dim: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(hidden_dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, tokens: Tensor, valid: Tensor, place: Tensor) -> Tensor:
        """Reads (M, S, H) tokens of which (M, S) are valid, at the indices place (M,): (M, H)."""
        *first, last = self.layers
        for layer in first:
            tokens = layer(tokens, valid)
        return self.norm(last(tokens, valid, place).squeeze(1))


class GRUReader(nn.Module):
    """Gated recurrent units over the valid tokens, oldest first.

    Args:
        hidden_dim: H.
        num_layers: Layers.

    Source: Cho et al. 2014, by `torch.nn.GRUCell`.
    """

    def __init__(self, hidden_dim: int, num_layers: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.GRUCell(hidden_dim, hidden_dim) for _ in range(num_layers))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Reads (M, S, H) tokens of which (M, S) are valid: the last state (M, H)."""
        steps = list(tokens.unbind(1))
        for cell in self.cells:
            state = torch.zeros_like(steps[0])  # (M, H)
            for t, token in enumerate(steps):
                state = torch.where(valid[:, t, None], cell(token, state), state)
                steps[t] = state
        return steps[-1]


def age_encoding(length: int, hidden_dim: int, device: torch.device) -> Tensor:
    """Sines and cosines of each token's age in steps, the last one being 0 old: (length, H).

    Source: Vaswani et al. 2017, with ages for positions so that any history length reads alike.
    """
    age = torch.arange(length - 1, -1, -1, device=device, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, hidden_dim, 2, device=device) * (-math.log(10000.0) / hidden_dim))
    return torch.stack([(age * rates).sin(), (age * rates).cos()], dim=-1).flatten(1)
