"""What the kernels for products share: which weights they read, and how these lie.

Axes: N rows of activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import Call
from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_blocks.quantizers.mxfp4 import MXFP4Config

GROUP = 32
FLOAT32, BFLOAT16, MXFP4, INT8 = range(4)
TYPES = {torch.float32: 0, torch.bfloat16: 1}


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


def stored(weight: Mapping[str, Tensor], quantizer: QuantizerConfig | None) -> tuple[int, Tensor, Tensor | None]:
    """A weight's kind, its numbers and their scales, as they lie."""
    if quantizer is None:
        return TYPES[weight["weight"].dtype], weight["weight"], None
    if isinstance(quantizer, MXFP4Config):
        return MXFP4, weight["blocks"], weight["scales"]
    return INT8, weight["codes"], weight["scales"]


def over_rows(product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A product of rows (N, in), of x (..., in)."""
    y = product(x.reshape(-1, x.shape[-1]))
    return y.view(*x.shape[:-1], y.shape[-1])
