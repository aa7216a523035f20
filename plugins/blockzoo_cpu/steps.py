"""What PyTorch does between kernels, as calls of C, so that a recording need not leave it.

Each gives None where its code doesn't serve a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from blockzoo.recording import Noted
from blockzoo_cpu.calls import packed, place
from blockzoo_cpu.products import TYPES


def _alike(*tensors: Tensor) -> bool:
    """Contiguous tensors of one shape and of a dtype that C code reads."""
    first = tensors[0]
    return first.dtype in TYPES and all(
        t.dtype == first.dtype and t.shape == first.shape and t.is_contiguous() for t in tensors
    )


def add(args: Sequence[Any], kwargs: dict[str, Any], outs: Sequence[Tensor]) -> bytes | None:
    a, b, y = *args[:2], outs[0]
    if kwargs or not isinstance(b, Tensor) or not _alike(a, b, y):
        return None
    return packed("5q", place(a), place(b), place(y), TYPES[y.dtype], y.numel())


def copy(args: Sequence[Any], kwargs: dict[str, Any], outs: Sequence[Tensor]) -> bytes | None:
    return _copied(args[1], args[0])


def clone(args: Sequence[Any], kwargs: dict[str, Any], outs: Sequence[Tensor]) -> bytes | None:
    return _copied(args[0], outs[0])


def _copied(source: Tensor, to: Tensor) -> bytes | None:
    if source.shape != to.shape or source.dtype != to.dtype or not 1 <= to.dim() <= 4:
        return None
    if to.shape[-1] > 1 and (source.stride(-1) != 1 or to.stride(-1) != 1):
        return None
    missing = [1] * (4 - to.dim())
    shape, size = [*missing, *to.shape], to.itemsize
    strides = [[*missing, *(n * size for n in t.stride())] for t in (source, to)]
    places = (place(source), place(to), shape[3] * size)
    return packed("12q", *places, *shape[:3], *strides[0][:3], *strides[1][:3])


Step = Callable[[Sequence[Any], dict[str, Any], Sequence[Tensor]], bytes | None]

STEPS: dict[Any, tuple[str, Step]] = {
    torch.Tensor.add: ("add", add),
    torch.add: ("add", add),
    torch.Tensor.copy_: ("copy", copy),
    torch.Tensor.clone: ("copy", clone),
    torch.clone: ("copy", clone),
    torch.Tensor.contiguous: ("copy", clone),
}
"""A function of PyTorch's -> the operation that does it."""


def told(call: Noted, args: Sequence[Any]) -> tuple[str, bytes] | None:
    """The operation and the struct of a call with these arguments."""
    if call.function not in STEPS:
        return None
    name, step = STEPS[call.function]
    struct = step(args, call.kwargs, call.outs)
    return None if struct is None else (name, struct)
