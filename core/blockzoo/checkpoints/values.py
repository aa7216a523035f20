"""Which values a checkpoint may not hold: NaN, and what a quantizer calls invalid."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.checkpoints.safetensors_io import StoredTensor
from blockzoo.errors import CheckpointError

VALUES_AT_ONCE = 2**19
INFINITY = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}
"""The bits of infinity; those of a NaN, its sign left out, are more."""


def check_values(values: Tensor, stored: StoredTensor, quantizer: QuantizerConfig | None, part: str) -> None:
    """Raise CheckpointError for values that are no weights. ``quantizer``: whose packed tensor ``part`` they are of."""
    reason = None if quantizer is None else quantizer.invalid(part, values)
    if reason is None and any(map(has_nan, _pieces(values))):
        reason = "has NaN in it"
    if reason is not None:
        raise CheckpointError(f"{stored.path}: tensor '{stored.name}' {reason}")


def has_nan(values: Tensor) -> bool:
    """Whether a tensor on the CPU has a NaN: by the greatest of its bits, as numbers with a sign and without one.

    Two maxima are four times as fast as a mask of NaNs, and need no memory.
    """
    if values.dtype not in INFINITY or not values.numel():
        return False
    integer, infinity = INFINITY[values.dtype]
    bits = values.view(integer).numpy()  # NumPy: not torch's threads, as several readers look at once
    sign = torch.iinfo(integer).max + 1
    return int(bits.max()) > infinity or int(bits.view(f"u{bits.itemsize}").max()) > sign + infinity


def _pieces(values: Tensor) -> Iterator[Tensor]:
    """A tensor in pieces along its first axis that a cache holds."""
    if values.dim() == 0 or values.numel() <= VALUES_AT_ONCE:
        return iter((values,))
    return iter(values.split(max(1, VALUES_AT_ONCE * len(values) // values.numel())))
