"""What a quantizer owes at the edges of float32: zeros, subnormal and huge weights, and numbers that are none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from blockzoo.blocks import QuantizerConfig
from blockzoo.testing.check import need
from blockzoo.testing.quantizers import config_of, weights_of
from blockzoo.testing.subjects import BlockSubject

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LARGE = tuple(2.0**exponent for exponent in range(7, 128))
"""Where scales of fewer bits than float32's are infinite, or are refused: a limit that is twice too high shows at one
of them. At the largest the sum over a row is infinite too.
"""
MOST = torch.finfo(torch.float32).max
TINY = (1e-30, 1e-37, 1e-39, 1e-42)
"""Greatest weights: below 1.2e-38 a float32 is subnormal, and below 2.9e-39 one over it is infinite."""


def extremes(subject: BlockSubject) -> None:
    """Zeros come back as zeros, large ones finite or refused, tiny ones as zeros at worst, NaN and infinity refused."""
    config = config_of(subject)
    plain = weights_of(config)[0]
    zero_row = torch.where(torch.arange(len(plain)) == 1, 0.0, 1.0)[:, None] * plain
    for weight in (torch.zeros_like(plain), zero_row):
        back = _come_back_with_care(config, weight, "a group of zeros")
        elsewhere = "".join(f"; row {row} does: rows change places" for row, r in enumerate(back) if not r.any())
        need(not back[1].any(), f"row 1, all zeros, does not come back as zeros{elsewhere}")
    _need_finite(config, plain / plain.abs().max() * MOST, f"weights of at most {MOST:g}")
    both = plain.sign() * (plain.abs() / plain.abs().median()).clamp(max=1)  # half of them -1 or 1, in any group
    for size in LARGE:
        _need_finite(config, both * size, f"weights from -{size:g} to {size:g} in a group")
    for size in TINY:
        _need_no_worse_than_lost(config, plain / plain.abs().max() * size, f"weights of at most {size:g}")
    for value in (float("nan"), float("inf")):
        wrong = plain.clone()
        wrong[3, 7] = value
        try:
            config.pack(wrong)
        except ValueError:
            continue
        need(False, f"packs a weight with {value} in it: raise ValueError")


def _need_finite(config: QuantizerConfig, weight: Tensor, what: str) -> None:
    """A format may refuse weights beyond its range; those it takes come back as numbers."""
    try:
        back = _come_back_with_care(config, weight, what)
    except ValueError:
        return
    wrong = ~back.isfinite()
    need(
        not wrong.any(),
        f"{what} do not come back finite: {weight[wrong][:1].sum():g} as {back[wrong][:1].sum():g}; clamp the scale,"
        " take sums and means in float64, or raise ValueError for what is out of range",
    )


def _need_no_worse_than_lost(config: QuantizerConfig, weight: Tensor, what: str) -> None:
    """Weights below the smallest step of a format may become zeros, and nothing else."""
    off = (_come_back_with_care(config, weight, what) - weight).abs()
    bound = config.error_bound(weight)
    allowed = weight.abs().amax(dim=-1, keepdim=True) if bound is None else torch.fmax(bound, weight.abs())
    excess = (off - allowed * (1 + 1e-5)).flatten()
    worst = int(excess.nan_to_num(float("inf")).argmax())
    need(
        excess[worst] <= 0,
        f"{what} come back further off than zeros would be: {weight.flatten()[worst]:g} is off by"
        f" {off.flatten()[worst]:g}; clamp the scale before you divide by it",
    )


def _come_back_with_care(config: QuantizerConfig, weight: Tensor, what: str) -> Tensor:
    """There and back, and no integer is made of a number that has none: NaN and the like differ by machine."""
    with _Casts() as casts:
        packed = config.pack(weight)
    need(
        not casts.found,
        f"pack() makes an integer of {''.join(casts.found[:1])} in {what}: keep the division in range before the cast",
    )
    return config.unpack(packed, torch.float32)


class _Casts(TorchDispatchMode):
    """Casts of floats to an integer type that has no such number."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and args[0].is_floating_point() and out.dtype in INTEGERS:
            limits = torch.iinfo(out.dtype)
            wrong = ~((args[0] > limits.min - 1) & (args[0] < limits.max + 1))
            if wrong.any():
                self.found.append(f"{args[0][wrong][0]:g}")
        return out


CHECKS = (extremes,)
