"""Temporal networks, which read a sequence of tokens: transformer and GRU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_tag.nn.products import Precision, Product
from rllib_tag.nn.window_attention import WindowAttention


class TransformerLayer(nn.Module):
    r"""A pre-norm transformer layer that can compute its output for only some of the tokens.

    .. math::
        y = q + W_O\,\mathrm{Attention}(\mathrm{LN}(q) + a_q, \mathrm{LN}(x) + a), \qquad
        z = y + W_2\,\mathrm{ReLU}(W_1 \mathrm{LN}(y))

    where q are the tokens x to compute the output for, and a encodes the tokens' ages. Without ages and with q = x,
    this is `torch.nn.TransformerEncoderLayer(norm_first=True)` without dropout. Ages are added after the norm, in every
    layer, so that the projection of a token does not depend on when it is read.

    Args:
        hidden_dim: H, a multiple of `num_heads`.
        num_heads: Attention heads.
        precision: Of the matrix products. Default: `float32`.

    Source: Vaswani et al. 2017; Xiong et al. 2020 for the position of the norms; Carion et al. 2020 for positional
    encodings that are added in every layer.
    """

    def __init__(self, hidden_dim: int, num_heads: int, precision: Precision = "float32") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(hidden_dim)
        self.norm_feedforward = nn.LayerNorm(hidden_dim)
        self.query = Product(hidden_dim, hidden_dim, precision=precision)
        self.key_value = Product(hidden_dim, 2 * hidden_dim, precision=precision)
        self.out = Product(hidden_dim, hidden_dim, precision=precision)
        self.feedforward = nn.Sequential(
            Product(hidden_dim, 2 * hidden_dim, precision=precision),
            nn.ReLU(),
            Product(2 * hidden_dim, hidden_dim, precision=precision),
        )

    def forward(self, tokens: Tensor, valid: Tensor, ages: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """Lets tokens attend to the valid tokens.

        Args:
            tokens: (M, S, H).
            valid: (M, S) booleans; at least one in each row is true.
            ages: (S, H) encodings of the tokens' ages. Default: none.
            place: (M,) index of the only token to compute the output for. Default: all tokens.

        Returns:
            (M, S, H), or (M, 1, H) with `place`.
        """
        normed = self.norm_attention(tokens)  # (M, S, H)
        if ages is not None:
            normed = normed + ages
        residual, asking = tokens, normed
        if place is not None:
            rows = torch.arange(len(tokens), device=tokens.device)
            residual, asking = tokens[rows, place].unsqueeze(1), normed[rows, place].unsqueeze(1)  # (M, 1, H)
        return self._answer(residual, self.query(asking), self.key_value(normed), valid)

    def over_windows(self, tokens: Tensor, valid: Tensor, ages: Tensor) -> Tensor:
        """Computes `forward` for the last token of every window of T steps, but projects each token only once.

        Args:
            tokens: (R, C + T - 1, N, H) of consecutive steps.
            valid: (R, C, N or 1, T) booleans: which tokens are valid in the window that ends at each of the last C
                steps.
            ages: (T, H).

        Returns:
            (R * C * N, 1, H).
        """
        T, H = ages.shape
        normed = self.norm_attention(tokens)
        heads = (self.num_heads, -1)
        query = self.query(normed[:, T - 1 :] + ages[-1]).unflatten(-1, heads)
        projected = [part.unflatten(-1, heads) for part in self.key_value(normed).chunk(2, dim=-1)]
        aged = [functional.linear(ages, weight).unflatten(-1, heads) for weight in self.key_value.weight.chunk(2)]
        attended = WindowAttention.apply(query, *projected, *aged, valid)
        return self._finish(tokens[:, T - 1 :].reshape(-1, 1, H), attended.reshape(-1, 1, H))

    def _answer(self, residual: Tensor, query: Tensor, key_value: Tensor, valid: Tensor) -> Tensor:
        key, value = (self._heads(part) for part in key_value.chunk(2, dim=-1))
        mask = valid[:, None, None, :]  # (M, 1, 1, S)
        attended = functional.scaled_dot_product_attention(self._heads(query), key, value, attn_mask=mask)
        return self._finish(residual, attended.transpose(1, 2).flatten(2))

    def _finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        out = residual + self.out(attended)
        return out + self.feedforward(self.norm_feedforward(out))

    def _heads(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (M, heads, S, H / heads)


class TransformerReader(nn.Module):
    """Transformer layers, the last of which computes its output only for the one token that is read.

    Args:
        hidden_dim: H.
        num_heads: The number of attention heads.
        num_layers: The number of layers.
        precision: Of the matrix products. Default: `float32`.
    """

    def __init__(self, hidden_dim: int, num_heads: int, num_layers: int, precision: Precision = "float32") -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(hidden_dim, num_heads, precision) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, tokens: Tensor, valid: Tensor, place: Tensor, ages: Tensor | None = None) -> Tensor:
        """Reads tokens (M, S, H), of which (M, S) are valid, at the indices `place` (M,): (M, H)."""
        *first, last = self.layers
        for layer in first:
            tokens = layer(tokens, valid, ages)
        return self.norm(last(tokens, valid, ages, place).squeeze(1))

    def over_windows(self, tokens: Tensor, valid: Tensor, ages: Tensor) -> Tensor:
        """Computes `forward` for the last token of every window of T = len(ages) steps: (R * C * N, H).

        Args:
            tokens: (R, C + T - 1, N, H) of consecutive steps.
            valid: (R, C, N or 1, T) booleans.
            ages: (T, H).
        """
        only = self.layers[0]
        if len(self.layers) == 1 and isinstance(only, TransformerLayer):
            return self.norm(only.over_windows(tokens, valid, ages).squeeze(1))
        # With more layers, what the first ones make of a token depends on its window, so windows cannot share it.
        T = len(ages)
        read = windows(tokens, T).flatten(0, 2)  # (M, T, H)
        valid = valid.expand(-1, -1, tokens.shape[2], -1).reshape(-1, T)
        return self(read, valid, torch.full((len(read),), T - 1, device=tokens.device), ages)


def windows(steps: Tensor, length: int) -> Tensor:
    """Returns all windows of consecutive steps: (R, S, N, H) to (R, S - length + 1, N, length, H)."""
    count = steps.shape[1] - length + 1
    return torch.stack([steps[:, t : t + count] for t in range(length)], dim=3)


def valid_steps(history: Tensor, length: int) -> Tensor:
    """Returns which of a window's `length` steps are among its last `history` (R, C) ones: (R, C, length) booleans."""
    return torch.arange(length - 1, -1, -1, device=history.device) < history.unsqueeze(-1)


class GRUReader(nn.Module):
    """Gated recurrent units over the valid tokens, oldest first.

    Args:
        hidden_dim: H.
        num_layers: The number of layers.

    Source: Cho et al. 2014, as in `torch.nn.GRUCell`.
    """

    def __init__(self, hidden_dim: int, num_layers: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.GRUCell(hidden_dim, hidden_dim) for _ in range(num_layers))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Reads tokens (M, S, H), of which (M, S) are valid, and returns the last state (M, H)."""
        steps = list(tokens.unbind(1))
        for cell in self.cells:
            state = torch.zeros_like(steps[0])  # (M, H)
            for t, token in enumerate(steps):
                state = torch.where(valid[:, t, None], cell(token, state), state)
                steps[t] = state
        return steps[-1]


def age_encoding(length: int, hidden_dim: int, device: torch.device) -> Tensor:
    """Returns sines and cosines of each token's age in steps, which is 0 for the last token: (length, H).

    Source: Vaswani et al. 2017, with ages as positions, so that the encoding does not depend on the history length.
    """
    age = torch.arange(length - 1, -1, -1, device=device, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, hidden_dim, 2, device=device) * (-math.log(10000.0) / hidden_dim))
    return torch.stack([(age * rates).sin(), (age * rates).cos()], dim=-1).flatten(1)
