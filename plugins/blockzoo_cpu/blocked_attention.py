"""Causal attention of many queries in float32 on a CPU with AVX-512, forward and backward in C: training.

Serves grouped queries, windows, sinks and values of another width than keys. Each gradient is added up by one thread in
one order: the same bits whatever the number of threads.

A model's weights say how a kernel is bound, but not which activations arrive (autocast) or whether their keys go by
index: what this code doesn't serve goes to PyTorch's kernels. So do prompts, and short sequences, of which spans of 32
queries leave too much empty: at 34 tokens this code takes twice as long, at 64 it is ahead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blockzoo.errors import KernelError
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.step import Keys
from blockzoo_cpu.causal_attention import CausalAttention, refusal
from blockzoo_cpu.library import wide
from blockzoo_torch.grouped import GROUPED
from blockzoo_torch.sdpa import SDPA


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine, call and phase are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.phase != "train":
        return no("serves training")
    if call.dtype != torch.float32:
        return no(f"serves float32, not {str(call.dtype).removeprefix('torch.')}")
    if (why := refusal(call)) is not None:
        return no(why)
    return YES if wide() else no(NARROW)


def blocked_attention(
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
    """As the op ``attention`` says. In float32 it has no second derivative."""
    assert softcap is None
    assert bias is None
    assert not dropout
    whole = keys.consecutive and q.shape[2] == k.shape[2] >= SHORTEST
    if whole and all(part.dtype == torch.float32 for part in (q, k, v)):
        return BLOCKED(q, k, v, scale=scale, window=window, sinks=sinks)
    exact = sinks is not None and q.dtype in (torch.float32, torch.float64)
    other = (GROUPED if exact else SDPA).function
    return other(q, k, v, positions, keys, scale=scale, window=window, sinks=sinks)


SHORTEST = 64
NARROW = "wants AVX-512: its sums fill sixteen vectors of 64 bytes"


def _usable() -> None:
    if not wide():
        raise KernelError(f"kernel 'cpu_blocked_attention' {NARROW}: choose another for the op 'attention'")


BLOCKED = CausalAttention("blocked_attention", "cpu_blocked_attention", _usable)

BLOCKED_ATTENTION = Kernel(
    "cpu_blocked_attention", blocked_attention, supports, backward=True, compile_safe=True, priority=65
)
