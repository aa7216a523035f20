"""A matrix that trains through a quantizer: float masters, products by what they become packed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig
from blockzoo.linear.ops import chosen_linear_reference, expert_linear_reference
from blockzoo.linear.plain import ExpertLinear


class StraightThrough(nn.Module):
    """Forward sees the quantized weight, backward passes the gradient to the master unchanged.

    Bengio et al. 2013, arXiv:1308.3432.
    """

    def __init__(self, quantizer: QuantizerConfig) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            rounded = self.quantizer.unpack(self.quantizer.pack(weight), weight.dtype)
        return weight + (rounded - weight).detach()


class FakeQuantLinear(nn.Module):
    """A linear or expert linear that keeps its float master under ``weight`` and computes with the quantized one."""

    def __init__(self, linear: nn.Linear | ExpertLinear, quantizer: QuantizerConfig) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.quantize = StraightThrough(quantizer)

    def forward(self, x: Tensor, *which: Sequence[int] | Tensor) -> Tensor:
        weight = self.quantize(self.weight)
        if not which:
            return F.linear(x, weight, self.bias)
        product = chosen_linear_reference if isinstance(which[0], Tensor) else expert_linear_reference
        return product({"weight": weight}, x, self.bias, which[0], quantizer=None)  # type: ignore[arg-type]
