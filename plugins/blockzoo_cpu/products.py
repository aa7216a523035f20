"""What the kernels for products share: what they read, and how a call of an op becomes one of C code.

Axes: N rows of activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import Call
from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_blocks.quantizers.mxfp4 import MXFP4Config

GROUP = 32
FLOAT32, BFLOAT16, MXFP4, INT8 = range(4)
TYPES = {torch.float32: 0, torch.bfloat16: 1}

Run = Callable[[int, Tensor, Tensor | None, Tensor | None, Tensor, Sequence[int] | None], Tensor]
"""(weight's kind, weights, scales, bias, x (N, in), rows of each expert or None) -> (N, out)."""


def refusal(call: Call) -> str | None:
    """Why activations or weights of a call can't be read, or None."""
    quantizer = call.static.get("quantizer")
    if call.dtype not in TYPES:
        return f"serves float32 and bfloat16, not {str(call.dtype).removeprefix('torch.')}"
    if not isinstance(quantizer, Int8Config | MXFP4Config | None):
        return f"reads plain, int8 and mxfp4 weights, not {type(quantizer).__name__}'s"
    if isinstance(quantizer, Int8Config) and quantizer.group_size != GROUP:
        return f"reads int8 in groups of {GROUP}, not {quantizer.group_size}"
    return None


def as_ops(run: Run) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The functions of the ops ``linear`` and ``expert_linear`` over one that takes tensors as they are stored."""

    def product(
        weight: Mapping[str, Tensor],
        x: Tensor,
        bias: Tensor | None,
        counts: Sequence[int] | None,
        quantizer: QuantizerConfig | None,
    ) -> Tensor:
        if quantizer is None:
            return run(TYPES[weight["weight"].dtype], weight["weight"], None, bias, x, counts)
        if isinstance(quantizer, MXFP4Config):
            return run(MXFP4, weight["blocks"], weight["scales"], bias, x, counts)
        return run(INT8, weight["codes"], weight["scales"], bias, x, counts)

    def linear(
        weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: QuantizerConfig | None
    ) -> Tensor:
        y = product(weight, x.reshape(-1, x.shape[-1]), bias, None, quantizer)
        return y.view(*x.shape[:-1], y.shape[-1])

    def expert_linear(
        weight: Mapping[str, Tensor],
        x: Tensor,
        bias: Tensor | None,
        counts: Sequence[int],
        *,
        quantizer: QuantizerConfig | None,
    ) -> Tensor:
        return product(weight, x, bias, counts, quantizer)

    return linear, expert_linear
