"""Causal attention of many queries in bfloat16 on a CPU with AMX or AVX-512 for it, forward and backward in C.

It goes by blocks of keys, as products of tiles (tiles.h).

Serves grouped queries, windows, sinks and values of another width than keys. Scores and sums are float32; weights and
the gradients of scores are rounded to bfloat16 for their products, as autocast rounds those of attention written out.
Each gradient is added up by one thread in one order: the same bits whatever the number of threads.

Autocast leaves a model's weights in float32, so what a kernel is bound by says nothing about the activations that
arrive: what is float32 goes to ``cpu_blocked_attention``, and keys that don't go by index to PyTorch's kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blockzoo.errors import KernelError
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.step import Keys
from blockzoo_blocks.casting import cast_once
from blockzoo_cpu.blocked_attention import blocked_attention
from blockzoo_cpu.causal_attention import CausalAttention, refusal, trains
from blockzoo_cpu.library import tiles


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine, call and phase are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.phase == "decode":
        return no("serves training and prompts: many queries")
    if call.dtype != torch.bfloat16 and (call.phase != "train" or call.dtype != torch.float32):
        return no(f"serves bfloat16, and float32 weights that train, not {str(call.dtype).removeprefix('torch.')}")
    if (why := refusal(call)) is not None:
        return no(why)
    return YES if tiles() else no(NO_TILES)


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
    """As the op ``attention`` says. In bfloat16 it has no second derivative."""
    assert softcap is None
    assert bias is None
    assert not dropout
    q, k, v = (cast_once(part) for part in (q, k, v))
    halves = all(part.dtype == torch.bfloat16 for part in (q, k, v))
    if halves and keys.consecutive and (q.shape[2] == k.shape[2] or not trains(q, k, v, sinks)):
        return TILED(q, k, v, scale=scale, window=window, sinks=sinks)
    return blocked_attention(q, k, v, positions, keys, scale=scale, window=window, sinks=sinks)


NO_TILES = "wants a CPU with AVX-512 or AMX in bfloat16"


def _usable() -> None:
    if not tiles():
        raise KernelError(f"kernel 'cpu_tiled_attention' {NO_TILES}: choose another for the op 'attention'")


TILED = CausalAttention("tiled_attention", "cpu_tiled_attention", _usable)

TILED_ATTENTION = Kernel("cpu_tiled_attention", attention, supports, backward=True, compile_safe=True, priority=70)
