"""Attention of each step to a sliding window of recent steps, without copying the windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class WindowAttention(torch.autograd.Function):
    r"""Attention with one query per window, over keys and values that overlapping windows share.

    .. math::
        w_{ct} \propto \exp(q_c \cdot (k_{c+t} + a_t) / \sqrt{d}), \qquad y_c = \sum_t w_{ct} (v_{c+t} + b_t)

    over the valid steps t of the T in the window that ends at step c. It equals
    `torch.nn.functional.scaled_dot_product_attention` on all windows laid out side by side, but that copies every key
    and value, and their gradients, T times.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, age_key: Tensor, age_value: Tensor, valid: Tensor
    ) -> Tensor:
        """Attends.

        Args:
            ctx: For the backward pass.
            query: (R, C, N, heads, d).
            key: (R, C + T - 1, N, heads, d) of consecutive steps.
            value: As `key`.
            age_key: (T, heads, d), oldest first.
            age_value: As `age_key`.
            valid: (R, C, N or 1, T) booleans; at least one in each window is true.

        Returns:
            (R, C, N, heads, d).
        """
        C, T = valid.shape[1], valid.shape[3]
        query = query * query.shape[-1] ** -0.5
        scores = torch.einsum("rcnhd,thd->rcnht", query, age_key)
        for t in range(T):
            scores[..., t] += (query * key[:, t : t + C]).sum(-1)
        weights = scores.masked_fill(~valid.unsqueeze(3), -torch.inf).softmax(-1)  # (R, C, N, heads, T)
        out = torch.einsum("rcnht,thd->rcnhd", weights, age_value)
        for t in range(T):
            out.addcmul_(weights[..., t, None], value[:, t : t + C])
        ctx.save_for_backward(query, key, value, age_key, age_value, weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Returns the gradients of query, key, value, age_key and age_value."""
        query, key, value, age_key, age_value, weights = ctx.saved_tensors
        C, T = query.shape[1], weights.shape[-1]
        grad_value, grad_key = torch.zeros_like(value), torch.zeros_like(key)
        grad_weights = torch.einsum("rcnhd,thd->rcnht", grad, age_value)
        for t in range(T):
            grad_weights[..., t] += (grad * value[:, t : t + C]).sum(-1)
            grad_value[:, t : t + C].addcmul_(weights[..., t, None], grad)
        grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
        grad_query = torch.einsum("rcnht,thd->rcnhd", grad_scores, age_key)
        for t in range(T):
            grad_query.addcmul_(grad_scores[..., t, None], key[:, t : t + C])
            grad_key[:, t : t + C].addcmul_(grad_scores[..., t, None], query)
        return (
            grad_query * query.shape[-1] ** -0.5,
            grad_key,
            grad_value,
            torch.einsum("rcnht,rcnhd->thd", grad_scores, query),
            torch.einsum("rcnht,rcnhd->thd", weights, grad),
            None,
        )
