"""Read bandwidth in C: a sum with two prefetched streams a thread, as much as memory gives."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_cpu.library import function, problem


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """float32 on a CPU with a compiler."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.dtype != torch.float32:
        return no(f"sums float32, not {str(call.dtype).removeprefix('torch.')}")
    why = problem()
    return YES if why is None else no(why)


def stream_sum(x: Tensor) -> Tensor:
    """As the op ``stream_sum`` says."""
    x, total = x.contiguous(), ctypes.c_double()
    _function()(x.data_ptr(), x.numel(), torch.get_num_threads(), ctypes.byref(total))
    return x.new_tensor(total.value)


@cache
def _function() -> Any:
    return function("stream_sum", ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p)


CPU_STREAM_SUM = Kernel("cpu_stream_sum", stream_sum, supports, priority=50)
