"""How GGUF stores the numbers of one tensor: floats as they are, Q8_0, and MXFP4 in ggml's order of nibbles.

An encoder takes rows (..., in) and returns their bytes (..., bytes a row) as uint8. Blocks lie along the input axis.
"""

from __future__ import annotations

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quantize
from torch import Tensor

FLOATS = {Type.F32: torch.float32, Type.BF16: torch.bfloat16, Type.F16: torch.float16}


def floats(rows: Tensor, kind: Type) -> np.ndarray:
    """Rows in a float dtype."""
    whole: np.ndarray = rows.to(FLOATS[kind]).contiguous().view(torch.uint8).numpy()
    return whole


def q8_0(rows: Tensor) -> np.ndarray:
    """32 weights and their float16 scale, largest magnitude / 127: 34 bytes a block."""
    packed: np.ndarray = quantize(rows.float().contiguous().numpy(), Type.Q8_0)
    return packed


def mxfp4(blocks: Tensor, scales: Tensor) -> np.ndarray:
    """The same codes and scales, 17 bytes a block: (..., in / 32, 16) and (..., in / 32), both uint8.

    A checkpoint's byte i holds codes 2i and 2i + 1; ggml's holds codes i and i + 16. Both have the first in the low
    nibble.
    """
    codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2)  # (..., in / 32, 32)
    first, second = codes[..., :16], codes[..., 16:]
    packed: np.ndarray = torch.cat([scales[..., None], first | (second << 4)], dim=-1).flatten(-2).numpy()
    return packed
