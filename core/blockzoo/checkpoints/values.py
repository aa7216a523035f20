"""Which values a checkpoint may not hold: NaN, infinity in a matrix, what a quantizer calls invalid; and what a dtype
can't.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import frexp

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


def check_values(
    values: Tensor, stored: StoredTensor, quantizer: QuantizerConfig | None, part: str, dtype: torch.dtype
) -> None:
    """Raise CheckpointError for values that are no weights, or that ``dtype``, which they are to have, can't hold.

    ``quantizer``: whose packed tensor ``part`` they are of.
    """
    reason = None if quantizer is None else quantizer.invalid(part, values)
    if reason is None and values.dtype in INFINITY and values.numel():
        reason = _no_weights(values, len(stored.shape) > 1, dtype)
    if reason is not None:
        raise CheckpointError(f"{stored.path}: tensor '{stored.name}' {reason}")


def _no_weights(values: Tensor, matrix: bool, dtype: torch.dtype) -> str | None:
    """What is wrong with floats, in words. A vector may be infinite: a sink, or a router's bias, of -inf takes no
    part.
    """
    integer, infinity = INFINITY[values.dtype]
    most = max(map(greatest, _pieces(values)))
    if most > infinity:
        return "has NaN in it"
    if most == infinity and matrix:
        return "has infinity in it, and is no vector"
    if most < (limit := _limit(values.dtype, dtype)):
        return None
    most = greatest(torch.where(values.isinf(), 0, values)) if most == infinity else most
    number = float(torch.tensor(most, dtype=integer).view(values.dtype))
    return None if most < limit else f"has {number:g} in it, {_too_much(dtype)}"


def check_unpacked(values: Tensor, name: str) -> None:
    """Raise CheckpointError where a weight that was unpacked is beyond its dtype."""
    if not values.isfinite().all():
        raise CheckpointError(f"{name}, unpacked, has numbers in it {_too_much(values.dtype)}")


def _too_much(dtype: torch.dtype) -> str:
    """Of a number that a float dtype can't hold, in words."""
    wider = "bfloat16 or float32" if dtype == torch.float16 else "float32"
    return f"more than {str(dtype).removeprefix('torch.')} holds: say {wider}"


def _limit(stored: torch.dtype, dtype: torch.dtype) -> int:
    """The bits of the least number that is infinite once it is cast; of infinity itself where none is."""
    integer, infinity = INFINITY[stored]
    if not dtype.is_floating_point or torch.finfo(dtype).max >= torch.finfo(stored).max:
        return infinity
    info = torch.finfo(dtype)
    half_a_step = 2.0 ** (frexp(info.max)[1] - 1) * info.eps / 2
    return int(torch.tensor(info.max + half_a_step, dtype=stored).view(integer))


def greatest(values: Tensor) -> int:
    """The bits, without the sign, of the greatest magnitude on the CPU, NaN above infinity.

    Two maxima of the bits, as numbers with a sign and without one, are four times as fast as a mask, and need no
    memory.
    """
    integer, _ = INFINITY[values.dtype]
    bits = values.view(integer).numpy()  # NumPy: not torch's threads, as several readers look at once
    sign = torch.iinfo(integer).max + 1
    return max(int(bits.max()), int(bits.view(f"u{bits.itemsize}").max()) - sign)


def _pieces(values: Tensor) -> Iterator[Tensor]:
    """A tensor in pieces along its first axis that a cache holds."""
    if values.dim() == 0 or values.numel() <= VALUES_AT_ONCE:
        return iter((values,))
    return iter(values.split(max(1, VALUES_AT_ONCE * len(values) // values.numel())))
