"""Matrix products in bfloat16."""

from __future__ import annotations

import functools
import time
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Precision = Literal["float32", "bfloat16", "auto"]
FASTER = 1.5  # how much faster bfloat16 must be for `auto` to use it: casts cost time, too


class Product(nn.Linear):
    """A linear layer whose matrix product can run in bfloat16; weights, inputs and outputs are float32.

    Args:
        in_dim: The number of inputs.
        out_dim: The number of outputs.
        bias: Whether it has a bias. Default: True.
        precision: `float32`, `bfloat16`, or `auto` for the faster one on the device of the inputs. Default: `float32`.
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


def is_low(precision: Precision, device: torch.device) -> bool:
    """Whether matrix products on a device run in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_faster(device.type))


@functools.cache
def bfloat16_is_faster(device: str) -> bool:
    """Whether matrix products of a layer's size are faster in bfloat16 on this machine, as measured at the first call.

    Args:
        device: The type of the device.
    """
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        values, weight = (torch.ones(size, 256, dtype=dtype, device=device) for size in (1024, 256))
        times = []
        for _ in range(7):
            start = time.perf_counter()
            functional.linear(values, weight)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        best[dtype] = min(times)
    return best[torch.float32] > FASTER * best[torch.bfloat16]
