"""Causal attention of many queries in bfloat16 on a CPU with AMX, forward and backward in C, by blocks of keys.

Serves grouped queries, windows, sinks and values of another width than keys. Scores and sums are float32; weights and
the gradients of scores are rounded to bfloat16 for their products, as autocast rounds those of attention written out.
Each gradient is added up by one thread in one order: the same bits whatever the number of threads.

Autocast leaves a model's weights in float32, so what a kernel is bound by says nothing about the activations that
arrive: what is not bfloat16, and keys that don't go by index, go to PyTorch's kernels.

Axes: B batch, H query heads, Hk key heads, T tokens, Dh head_dim, Dv width of values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blockzoo.errors import KernelError
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.step import Keys
from blockzoo_blocks.casting import cast_once
from blockzoo_cpu.calls import OPS, heads_as_they_lie, lying_as, operation, place
from blockzoo_cpu.library import problem
from blockzoo_cpu.prefill import tiled
from blockzoo_torch.grouped import GROUPED
from blockzoo_torch.sdpa import SDPA


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine, call and phase are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.phase == "decode":
        return no("serves training and prompts: many queries")
    if call.dtype != torch.bfloat16 and (call.phase != "train" or call.dtype != torch.float32):
        return no(f"serves bfloat16, and float32 weights that train, not {str(call.dtype).removeprefix('torch.')}")
    if call.static.get("softcap") is not None:
        return no("has no softcap")
    if call.static.get("bias"):
        return no("adds no bias to scores")
    if call.static.get("dropout"):
        return no("drops no weights out")
    if (why := problem()) is not None:
        return no(why)
    return YES if tiled() else no(NO_TILES)


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
    parts = (q, k, v, sinks)
    trains = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts)
    if not (halves and keys.consecutive and (q.shape[2] == k.shape[2] or not trains)):
        exact = sinks is not None and q.dtype in (torch.float32, torch.float64)
        other = (GROUPED if exact else SDPA).function
        return other(q, k, v, positions, keys, scale=scale, window=window, sinks=sinks)
    made = torch.ops.blockzoo_cpu.tiled_attention if trains else FORWARD
    y: Tensor = made(*parts, window or 0, scale)[0]
    return y


NO_TILES = "wants a CPU with AMX in bfloat16"


def _ready(*arguments: Any) -> tuple[Any, ...]:
    """Heads are read where they lie, as long as each token's features lie side by side."""
    if not tiled():  # asking is also what lets this process use the tiles
        raise KernelError(f"kernel 'cpu_tiled_attention' {NO_TILES}: choose another for the op 'attention'")
    heads = (heads_as_they_lie(x) if isinstance(x, Tensor) and x.dim() == 4 else x for x in arguments)
    return tuple(x.float().contiguous() if isinstance(x, Tensor) and x.dim() == 1 else x for x in heads)


def _like(q: Tensor, k: Tensor, v: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """y (B, H, T, Dv), a token's heads side by side, as the projection after it reads them; log-sum-exps (B, H, T)."""
    batch, heads, tokens, _ = q.shape
    y = q.new_empty(batch, tokens, heads, v.shape[3]).transpose(1, 2)
    return y, q.new_empty(batch, heads, tokens, dtype=torch.float32)


def _told(
    made: tuple[Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, window: int, scale: float
) -> tuple[int | float, ...]:
    y, log_sum_exp = made
    batch, heads, tokens, width = q.shape
    n_keys = k.shape[2]
    return (
        *(*_heads(q), *_heads(k), *_heads(v), *_heads(y)),
        *(place(sinks), place(log_sum_exp)),
        *(batch, heads, k.shape[1], tokens, n_keys - tokens, width, v.shape[3]),
        *(min(window, n_keys) if window else n_keys, scale),
    )


def _heads(x: Tensor) -> tuple[int, ...]:
    """Heads in C: where they lie, and the strides of rows, heads and tokens."""
    return place(x), *x.stride()[:3]


FORWARD = operation(
    "tiled_attention(Tensor q, Tensor k, Tensor v, Tensor? sinks, int window, float scale) -> (Tensor, Tensor)",
    "26qd",
    like=_like,
    told=_told,
    ready=_ready,
)
"""A window of 0 is none."""


def _like_gradients(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *rest: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Those of q, k and v, which lie as these do, and of sinks, each row's share (B, H); (0, H) without."""
    dq, dk, dv = (lying_as(part) for part in (q, k, v))
    return dq, dk, dv, q.new_empty(0 if sinks is None else q.shape[0], q.shape[1], dtype=torch.float32)


def _told_gradients(
    made: tuple[Tensor, ...],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    y: Tensor,
    log_sum_exp: Tensor,
    dy: Tensor,
    window: int,
    scale: float,
) -> tuple[int | float, ...]:
    dq, dk, dv, dsinks = made
    forward = _told((y, log_sum_exp), q, k, v, sinks, window, scale)
    return *forward, *_heads(dy), *_heads(dq), *_heads(dk), *_heads(dv), place(dsinks)


BACKWARD = operation(
    "tiled_attention_backward(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor y, Tensor log_sum_exp, Tensor dy,"
    " int window, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
    "26qd17q",
    like=_like_gradients,
    told=_told_gradients,
    ready=_ready,
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *parts, ctx.window, ctx.scale = inputs
    ctx.save_for_backward(*parts, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 6
    q, k, v, sinks, y, log_sum_exp = ctx.saved_tensors
    backward = torch.ops.blockzoo_cpu.tiled_attention_backward
    dq, dk, dv, dsinks = backward(q, k, v, sinks, y, log_sum_exp, dy, ctx.window, ctx.scale)
    return dq, dk, dv, None if sinks is None else dsinks.sum(0).to(sinks.dtype), None, None


def _no_second(ctx: Any, *gradients: Tensor) -> None:
    raise KernelError("kernel 'cpu_tiled_attention' has no second derivative: choose another for the op 'attention'")


torch.library.register_autograd("blockzoo_cpu::tiled_attention", _gradients, setup_context=_keep, lib=OPS)
torch.library.register_autograd("blockzoo_cpu::tiled_attention_backward", _no_second, lib=OPS)

TILED_ATTENTION = Kernel("cpu_tiled_attention", attention, supports, backward=True, compile_safe=True, priority=70)
