"""Decoding's products in C: a few rows times float32, bfloat16, MXFP4 or int8 weights, and times those of experts.

In float32 activations stay as they are ("exact"). In bfloat16 the activations of packed weights are rounded to int8 by
groups of 32, so that products are of bytes (VNNI): twice as fast as widening the weights, within what bfloat16
itself rounds away. Weights stay in the layout they are published in.

Axes: N rows of activations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_cpu.dispatch import define, may_go_direct
from blockzoo_cpu.library import function, problem, wide
from blockzoo_cpu.products import TYPES, as_ops, refusal

PAIR = 64


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine, weight and phase are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.phase != "decode":
        return no("serves decoding: few rows")
    if (reason := refusal(call)) is not None:
        return no(reason)
    quantizer = call.static.get("quantizer")
    if quantizer is not None and call.static["shape"][-1] % PAIR:
        return no(f"reads packed rows of a multiple of {PAIR} inputs, not {call.static['shape'][-1]}")
    why = problem()
    return YES if why is None else no(why)


def _run(
    kind: int, weights: Tensor, scales: Tensor | None, bias: Tensor | None, x: Tensor, counts: Sequence[int] | None
) -> Tensor:
    run = _rows if may_go_direct(x) else torch.ops.blockzoo_cpu.rows
    return run(kind, weights, scales, bias, x, counts)


def _rows(
    kind: int, weights: Tensor, scales: Tensor | None, bias: Tensor | None, x: Tensor, counts: Sequence[int] | None
) -> Tensor:
    """``weights`` and ``scales`` as their quantizer stores them, one more axis in front for experts."""
    y = _like(kind, weights, scales, bias, x, counts)
    rows = [len(x)] if counts is None else counts
    # rows lie one after another for the C code; weights do already, so they are never copied
    weights = weights.contiguous()
    if x.stride(1) != 1 or x.stride(0) not in (0, x.shape[1]):  # 0: one row for all, prepared once
        x = x.contiguous()
    scales, bias = (None if part is None else part.contiguous() for part in (scales, bias))
    failed = _rows_times()(
        kind,
        weights.data_ptr(),
        None if scales is None else scales.data_ptr(),
        None if bias is None else bias.data_ptr(),
        0 if bias is None else TYPES[bias.dtype],
        x.data_ptr(),
        x.stride(0),
        y.data_ptr(),
        TYPES[x.dtype],
        len(x),
        x.shape[1],
        y.shape[1],
        (ctypes.c_int64 * len(rows))(*rows),
        len(rows),
        int(scales is not None and x.dtype == torch.bfloat16 and wide()),
        int(wide()),
    )
    if failed:
        raise MemoryError(f"no memory for the activations of {len(x)} rows")
    return y


def _like(
    kind: int, weights: Tensor, scales: Tensor | None, bias: Tensor | None, x: Tensor, counts: Sequence[int] | None
) -> Tensor:
    return x.new_empty(len(x), weights.shape[0] if counts is None else weights.shape[1])


@cache
def _rows_times() -> Any:
    return function(
        "rows_times",
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int),  # weight, scales, bias
        *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int] * 4),  # x, its stride, y, type, sizes
        *(ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int),  # counts, experts, rounded, wide
    )


define(
    "rows(int kind, Tensor weights, Tensor? scales, Tensor? bias, Tensor x, SymInt[]? counts) -> Tensor", _rows, _like
)

linear, expert_linear = as_ops(_run)
LINEAR_ROWS = Kernel("cpu_rows", linear, supports, compile_safe=True, priority=50)
EXPERT_ROWS = Kernel("cpu_expert_rows", expert_linear, supports, compile_safe=True, priority=50)
