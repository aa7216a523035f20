"""Matrices whose weight is one plain tensor: stacked by expert, or in a slot for kernels.

Axes: N rows, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import REFERENCE, Slot
from blockzoo.linear.ops import CHOSEN_LINEAR, EXPERT_LINEAR, LINEAR, phase_of, sorted_by_expert


class ExpertLinear(nn.Module):
    """One matrix an expert: weight (E, out, in), bias (E, out). x (N, in) -> (N, out).

    ``counts``: how many rows each expert takes, on the host, where rows are sorted by expert; or, of a few rows in any
    order, the expert of each, (N,) int64.
    """

    def __init__(self, n_experts: int, d_in: int, d_out: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n_experts, d_out)) if bias else None
        self.slot = Slot(EXPERT_LINEAR, quantizer=None, shape=tuple(self.weight.shape))
        self.few = Slot(CHOSEN_LINEAR, quantizer=None, shape=tuple(self.weight.shape))

    def forward(self, x: Tensor, counts: Sequence[int] | Tensor) -> Tensor:
        return of_experts(self.slot, self.few, {"weight": self.weight}, x, self.bias, counts, None)


def of_experts(
    slot: Slot,
    few: Slot | None,
    weight: Mapping[str, Tensor],
    x: Tensor,
    bias: Tensor | None,
    which: Sequence[int] | Tensor,
    quantizer: QuantizerConfig | None,
) -> Tensor:
    """``few``: None where the weight lies in a layout of ``slot``'s kernel."""
    phase = phase_of(len(x))
    if not isinstance(which, Tensor):
        return slot[phase](weight, x, bias, which, quantizer=quantizer)
    if few is not None and few.chosen[phase] != REFERENCE:
        return few[phase](weight, x, bias, which, quantizer=quantizer)
    return sorted_by_expert(
        lambda rows, counts: slot[phase](weight, rows, bias, counts, quantizer=quantizer),
        x,
        which,
        slot.static["shape"][0],
    )


class SlottedLinear(nn.Linear):
    """An ``nn.Linear`` that a kernel may serve. It shares the parameters of the one that it takes the place of."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = linear.weight, linear.bias
        self.out_features, self.in_features = linear.weight.shape
        self.slot = Slot(LINEAR, quantizer=None, shape=tuple(linear.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.slot[phase_of(x.numel() // x.shape[-1])]
        return kernel({"weight": self.weight}, x, self.bias, quantizer=None)
