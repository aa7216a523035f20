"""Decoding's attention in C: one query a row on the cache, each key and value read once where it lies.

Exact: sums are float32 whatever the cache holds. Serves grouped queries, windows, sinks, softcap, values of another
width than keys, and rows of different length.

Axes: B batch, H query heads, Hk key heads, S keys, Dh head_dim, Dv width of values.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.step import Keys
from blockzoo_cpu.calls import operation, place
from blockzoo_cpu.library import problem, wide
from blockzoo_cpu.products import TYPES


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine, call and phase are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.phase != "decode":
        return no("serves decoding: one query a row")
    if call.dtype not in TYPES:
        return no(f"serves float32 and bfloat16, not {str(call.dtype).removeprefix('torch.')}")
    if call.static.get("bias"):
        return no("adds no bias to scores")
    why = problem()
    return YES if why is None else no(why)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    keys: Keys,
    *,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """As the op ``attention`` says, of one query a row."""
    assert bias is None
    where, places = (None, None) if keys.consecutive else (positions, keys.positions)
    return ATTEND(q, k, v, where, places, sinks, window or 0, scale, softcap or 0.0)


def _ready(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, positions: Tensor | None, sinks: Tensor | None, *rest: Any
) -> tuple[Any, ...]:
    if positions is not None and positions.stride(1) != 1:
        positions = positions.contiguous()
    # each key (or value) by itself in one piece: a view of the cache is, and is not copied
    k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (k, v))
    return q.contiguous(), k, v, position, positions, None if sinks is None else sinks.contiguous(), *rest


def _like(q: Tensor, k: Tensor, v: Tensor, *rest: object) -> Tensor:
    return q.new_empty(*q.shape[:3], v.shape[3])


def _told(
    y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    positions: Tensor | None,
    sinks: Tensor | None,
    window: int,
    scale: float,
    softcap: float,
) -> tuple[int | float, ...]:
    batch, heads, _, width = q.shape
    return (
        *(place(q), place(k), place(v), place(y), place(position), place(positions), place(sinks)),
        *(0 if sinks is None else TYPES[sinks.dtype], TYPES[q.dtype]),
        *(batch, heads, k.shape[1], k.shape[2], width, v.shape[3]),
        *(*k.stride()[:3], *v.stride()[:3]),
        *(0 if position is None else position.stride(0), 0 if positions is None else positions.stride(0)),
        *(window, scale, softcap, wide()),
    )


ATTEND = operation(
    "attend(Tensor q, Tensor k, Tensor v, Tensor? position, Tensor? positions, Tensor? sinks, int window, float scale,"
    " float softcap) -> Tensor",
    "7q17q2dq",
    like=_like,
    told=_told,
    ready=_ready,
)
"""Goes by index where ``position`` (B, 1) and ``positions`` (B, S) are None; a window or softcap of 0 is none."""

ATTENTION = Kernel("cpu_attention", attention, supports, compile_safe=True, priority=70)
