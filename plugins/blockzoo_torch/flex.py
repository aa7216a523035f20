"""Attention by ``torch.nn.attention.flex_attention``, compiled: forward on the CPU, backward too on a GPU.

The mask is a function of positions, so windows, padding and caches need no (T, S) mask in memory. It compiles at
first use, so it serves only where it is asked for by name: where contexts are long.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.step import Keys


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    if capabilities.device not in ("cpu", "cuda"):
        return no(f"flex_attention runs on cpu and cuda, not on {capabilities.device}")
    if capabilities.device == "cpu" and call.phase == "train":
        return no("flex_attention has no backward on the CPU")
    if capabilities.device == "cpu" and capabilities.cpu not in ("AVX2", "AVX512"):
        return no("flex_attention on the CPU needs AVX2")
    if call.dtype == torch.float64:
        return no("flex_attention has no float64")
    if call.phase == "train" and call.static.get("dropout"):
        return no("flex_attention has no dropout")
    if call.phase == "decode":
        return no("a mask of one query costs more than it saves")
    return YES


@functools.cache
def _compiled() -> Callable[..., Any]:
    # fullgraph: past the limit of recompilations an error, not a silent fall to the uncompiled definition
    return torch.compile(flex_attention, fullgraph=True)


def attend(
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
    """As the op ``attention`` says."""
    assert dropout == 0.0
    key_positions = keys.positions
    front = 0
    if sinks is not None:  # a key in front whose score is the sink and whose value is zero
        front, k, v = 1, F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
        key_positions = F.pad(key_positions, (1, 0))

    def seen(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        distance = positions[b, t] - key_positions[b, s]
        inside = (distance >= 0) & (key_positions[b, s] >= 0)
        if window is not None:
            inside = inside & (distance < window)
        return inside | (s < front)

    def score(raw: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if softcap is not None:
            raw = softcap * torch.tanh(raw / softcap)
        if bias is not None:
            raw = raw + bias[b, h, t, (s - front).clamp(min=0)]
        return raw if sinks is None else torch.where(s < front, sinks[h].to(raw.dtype), raw)

    plain = softcap is None and bias is None and sinks is None
    # within a larger graph it is a part of that one
    function: Any = flex_attention if torch.compiler.is_compiling() else _compiled()
    y = function(
        q,
        k,
        v,
        score_mod=None if plain else score,
        block_mask=create_block_mask(seen, q.shape[0], None, q.shape[2], k.shape[2], device=q.device.type),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return torch.where((positions >= 0)[:, None, :, None], y, 0.0)


FLEX = Kernel("flex", attend, supports, backward=True, compile_safe=True, priority=-10, builds_itself=True)
