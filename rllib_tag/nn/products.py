"""Linear layers: wide ones, optionally in bfloat16, and narrow ones with a faster backward pass."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

Precision = Literal["float32", "bfloat16", "auto"]


class Product(nn.Linear):
    """A linear layer whose matrix product can run in bfloat16; weights, inputs and outputs are float32.

    Args:
        in_dim: The number of inputs.
        out_dim: The number of outputs.
        bias: Whether it has a bias. Default: True.
        precision: `float32`, `bfloat16`, or `auto` for bfloat16 on devices with instructions for it.
            Default: `float32`.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True, precision: Precision = "float32") -> None:
        super().__init__(in_dim, out_dim, bias)
        self.precision = precision

    def forward(self, values: Tensor) -> Tensor:
        """Returns (..., out_dim) for values (..., in_dim)."""
        if not is_low(self.precision, values.device):
            return super().forward(values)
        # The weights are cast anew in each call, which takes microseconds. Keeping the casts would take knowing of
        # every update, and a fused optimizer's do not show in the weights' versions.
        bias = None if self.bias is None else self.bias.bfloat16()
        return functional.linear(values.bfloat16(), self.weight.bfloat16(), bias).float()


class Narrow(nn.Linear):
    """`torch.nn.Linear` for few inputs, such as a position (`narrow`)."""

    def forward(self, values: Tensor) -> Tensor:
        """Returns (..., out_dim) for values (..., in_dim)."""
        return narrow(values, self.weight, self.bias)


def narrow(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns `torch.nn.functional.linear` of few inputs, with a backward pass that is faster on CPUs."""
    out = _Narrow.apply(values.reshape(-1, values.shape[-1]), weight, bias)
    return out.view(*values.shape[:-1], len(weight))


class _Narrow(torch.autograd.Function):
    """The product of values (M, few) and a weight (many, few), plus a bias (many,).

    Autograd would compute the weight's gradient as (many, few), which takes a CPU several times as long as its
    transpose. There is no second derivative.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight)
        return functional.linear(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, weight = ctx.saved_tensors
        of_values, of_weight, of_bias = ctx.needs_input_grad
        return (
            grad @ weight if of_values else None,
            (values.t() @ grad).t() if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def is_low(precision: Precision, device: torch.device) -> bool:
    """Whether matrix products on a device run in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_faster(device.type))


def bfloat16_is_faster(device: str) -> bool:
    """Whether a device has instructions for products in bfloat16, as torch reports them.

    Args:
        device: The type of the device.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False
