"""Which values a checkpoint may not hold: NaN, infinity in a matrix, what a quantizer calls invalid; and what a dtype
can't.
"""

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
    if reason is None and values.dtype in INFINITY and values.numel():
        most, infinity = max(map(greatest, _pieces(values))), INFINITY[values.dtype][1]
        if most > infinity:
            reason = "has NaN in it"
        elif (
            most == infinity and len(stored.shape) > 1
        ):  # a vector may: a sink or a router's bias of -inf takes no part
            reason = "has infinity in it, and is no vector"
    if reason is not None:
        raise CheckpointError(f"{stored.path}: tensor '{stored.name}' {reason}")


def greatest(values: Tensor) -> int:
    """The bits, without the sign, of the greatest magnitude on the CPU, NaN above infinity.

    Two maxima of the bits, as numbers with a sign and without one, are four times as fast as a mask, and need no
    memory.
    """
    integer, _ = INFINITY[values.dtype]
    bits = values.view(integer).numpy()  # NumPy: not torch's threads, as several readers look at once
    sign = torch.iinfo(integer).max + 1
    return max(int(bits.max()), int(bits.view(f"u{bits.itemsize}").max()) - sign)


def check_range(values: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise CheckpointError where one of these finite floats is infinite in ``dtype``. ``name``: what they are of."""
    if not (dtype.is_floating_point and values.is_floating_point() and values.numel()):
        return
    most = torch.finfo(dtype).max
    if most >= torch.finfo(values.dtype).max:
        return
    for piece in _pieces(values):
        size = piece.abs()
        size = torch.where(size.isinf(), 0, size).max()
        if size > most:
            short = str(dtype).removeprefix("torch.")
            raise CheckpointError(f"{name} has {size:g}, and {short} ends at {most:g}: say bfloat16 or float32")


def _pieces(values: Tensor) -> Iterator[Tensor]:
    """A tensor in pieces along its first axis that a cache holds."""
    if values.dim() == 0 or values.numel() <= VALUES_AT_ONCE:
        return iter((values,))
    return iter(values.split(max(1, VALUES_AT_ONCE * len(values) // values.numel())))
