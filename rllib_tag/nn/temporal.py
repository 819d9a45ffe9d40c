"""What a sequence of tokens says at one of its places: transformer or GRU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_tag.nn.window_attention import WindowAttention


class TransformerLayer(nn.Module):
    r"""A pre-norm transformer layer that answers for some of the tokens.

    .. math::
        y = q + W_O\,\mathrm{Attention}(\mathrm{LN}(q) + a_q, \mathrm{LN}(x) + a), \qquad
        z = y + W_2\,\mathrm{ReLU}(W_1 \mathrm{LN}(y))

    where a encodes the tokens' ages. Without ages and with q = x this is
    `torch.nn.TransformerEncoderLayer(norm_first=True)` without dropout. Ages come after the norm, in every layer,
    so that what a token is projected to does not depend on when it is read.

    Args:
        hidden_dim: H, a multiple of `num_heads`.
        num_heads: Attention heads.

    Source: Vaswani et al. 2017; Xiong et al. 2020 for the place of the norms; Carion et al. 2020 for positions
    that are added in every layer.
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

    def forward(self, tokens: Tensor, valid: Tensor, ages: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """Attends among the valid tokens.

        Args:
            tokens: (M, S, H).
            valid: (M, S) booleans; at least one of each row is true.
            ages: (S, H) encodings of the tokens' ages. Default: none.
            place: (M,) indices of the one token to answer for. Default: all.

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
        """What `forward` gives for the last token of every window of consecutive steps, each token projected once.

        Args:
            tokens: (R, C + T - 1, N, H), steps in a row.
            valid: (R, C, T) booleans, which tokens of the window that ends at each of the last C steps count.
            ages: (T, H).

        Returns:
            (R * C * N, 1, H).
        """
        T, H = ages.shape
        normed = self.norm_attention(tokens)
        heads = (self.num_heads, -1)
        query = self.query(normed[:, T - 1 :] + ages[-1]).unflatten(-1, heads)
        # Keys and values apart, so that their gradients need not be joined.
        weights, biases = self.key_value.weight.chunk(2), self.key_value.bias.chunk(2)
        projected = [
            functional.linear(normed, weight, bias).unflatten(-1, heads)
            for weight, bias in zip(weights, biases, strict=True)
        ]
        aged = [functional.linear(ages, weight).unflatten(-1, heads) for weight in weights]
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

    def forward(self, tokens: Tensor, valid: Tensor, place: Tensor, ages: Tensor | None = None) -> Tensor:
        """Reads (M, S, H) tokens of which (M, S) are valid, at the indices place (M,): (M, H)."""
        *first, last = self.layers
        for layer in first:
            tokens = layer(tokens, valid, ages)
        return self.norm(last(tokens, valid, ages, place).squeeze(1))

    def over_windows(self, tokens: Tensor, valid: Tensor, ages: Tensor) -> Tensor:
        """What `forward` gives at the last place of every window of T = len(ages) steps: (R * C * N, H).

        Args:
            tokens: (R, C + T - 1, N, H), steps in a row.
            valid: (R, C, T) booleans.
            ages: (T, H).
        """
        only = self.layers[0]
        if len(self.layers) == 1 and isinstance(only, TransformerLayer):
            return self.norm(only.over_windows(tokens, valid, ages).squeeze(1))
        # What layers before the last make of a token depends on the window that it stands in.
        T = len(ages)
        read = windows(tokens, T).flatten(0, 2)  # (M, T, H)
        valid = valid.unsqueeze(2).expand(-1, -1, tokens.shape[2], -1).reshape(-1, T)
        return self(read, valid, torch.full((len(read),), T - 1, device=tokens.device), ages)


def windows(steps: Tensor, length: int) -> Tensor:
    """All windows of consecutive steps: (R, S, N, H) to (R, S - length + 1, N, length, H)."""
    count = steps.shape[1] - length + 1
    return torch.stack([steps[:, t : t + count] for t in range(length)], dim=3)


def valid_steps(history: Tensor, length: int) -> Tensor:
    """Which of the `length` steps of windows are among the last `history` (R, C) ones: (R, C, length) booleans."""
    return torch.arange(length - 1, -1, -1, device=history.device) < history.unsqueeze(-1)


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
