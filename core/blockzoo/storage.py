"""Room for weights, on huge pages where the system gives them to who asks, and for what passes make and free.

A pass over gigabytes of weights touches each page once a token; on pages of 4 kB a processor spends a good part of
that on looking addresses up. Linux backs a range by pages of 2 MB where it is asked to (madvise, MADV_HUGEPAGE) and
falls back by itself where it can't.

Every layer of a prompt, and every step of training, makes and frees the same megabytes. glibc returns them to the
system and asks again, which clears each page anew: an eighth of a prompt of 512 tokens. So it is told to keep them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

HUGE_PAGE = 2 * 2**20
MADV_HUGEPAGE = 14
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt: how much of the heap's end may be free, and how large a piece must be to stand outside of it."""
KEPT, LARGEST = 256 * 2**20, 32 * 2**20
"""Bytes. glibc itself raises the second as far as this, and the first to twice of it."""


def room(shape: tuple[int, ...] | torch.Size, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """An uninitialized tensor that is read whole, again and again."""
    tensor = torch.empty(shape, dtype=dtype, device=device)
    if tensor.device.type == "cpu":
        start = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        nbytes = (tensor.data_ptr() + tensor.nbytes - start) // HUGE_PAGE * HUGE_PAGE
        if nbytes > 0 and (advise := _of_linux("madvise")) is not None:
            # a refusal leaves small pages, which is no error
            advise(ctypes.c_void_p(start), ctypes.c_size_t(nbytes), MADV_HUGEPAGE)
    return tensor


@cache
def keep_what_is_freed() -> None:
    """Of a process whose weights are in place. What is left of packing them on the way is given back before.

    Who chose otherwise (MALLOC_..., GLIBC_TUNABLES) is left alone.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if not chosen and (tell := _of_linux("mallopt")) is not None:
        if (trim := _of_linux("malloc_trim")) is not None:
            trim(0)
        tell(M_MMAP_THRESHOLD, LARGEST)
        tell(M_TRIM_THRESHOLD, KEPT)


@cache
def _of_linux(name: str) -> Any:
    """A function of the C library, which returns an int; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
