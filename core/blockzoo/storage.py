"""Room for weights, on huge pages where the system gives them to who asks.

A pass over gigabytes of weights touches each page once a token; on pages of 4 kB a processor spends a good part of
that on looking addresses up. Linux backs a range by pages of 2 MB where it is asked to (madvise, MADV_HUGEPAGE) and
falls back by itself where it can't.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

HUGE_PAGE = 2 * 2**20
MADV_HUGEPAGE = 14


def room(shape: tuple[int, ...] | torch.Size, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """An uninitialized tensor that is read whole, again and again."""
    tensor = torch.empty(shape, dtype=dtype, device=device)
    if tensor.device.type == "cpu":
        start = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        nbytes = (tensor.data_ptr() + tensor.nbytes - start) // HUGE_PAGE * HUGE_PAGE
        if nbytes > 0 and (advise := _advise()) is not None:
            advise(start, nbytes, MADV_HUGEPAGE)  # a refusal leaves small pages, which is no error
    return tensor


@cache
def _advise() -> Callable[[int, int, int], int] | None:
    """madvise of the C library; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    found = getattr(ctypes.CDLL(None), "madvise", None)
    if found is not None:
        found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
