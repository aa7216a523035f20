"""Causal attention of many queries as an op in C with a backward in C, of one type of numbers.

Axes: B batch, H query heads, Hk key heads, T tokens, Dh head_dim, Dv width of values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blockzoo.errors import KernelError
from blockzoo.kernels import Call
from blockzoo_cpu.calls import OPS, Operation, heads_as_they_lie, lying_as, operation, place
from blockzoo_cpu.library import problem


class CausalAttention:
    """``blockzoo_cpu::NAME`` and ``NAME_backward``; ``usable`` raises where the code can't run."""

    def __init__(self, name: str, kernel: str, usable: Callable[[], None]) -> None:
        def ready(*arguments: Any) -> tuple[Any, ...]:
            usable()
            return _ready(*arguments)

        def no_second(ctx: Any, *gradients: Tensor) -> None:
            raise KernelError(f"kernel {kernel!r} has no second derivative: choose another for the op 'attention'")

        self.forward: Operation[tuple[Tensor, ...]] = operation(
            f"{name}(Tensor q, Tensor k, Tensor v, Tensor? sinks, int window, float scale) -> (Tensor, Tensor)",
            "26qd",
            like=_like,
            told=_told,
            ready=ready,
        )
        self.backward: Operation[tuple[Tensor, ...]] = operation(
            f"{name}_backward(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor y, Tensor log_sum_exp, Tensor dy,"
            " int window, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
            "26qd17q",
            like=_like_gradients,
            told=_told_gradients,
            ready=ready,
        )

        def gradients(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
            if dy is None:
                return (None,) * 6
            q, k, v, sinks, y, log_sum_exp = ctx.saved_tensors
            backward = getattr(torch.ops.blockzoo_cpu, self.backward.name)
            dq, dk, dv, dsinks = backward(q, k, v, sinks, y, log_sum_exp, dy, ctx.window, ctx.scale)
            return dq, dk, dv, None if sinks is None else dsinks.sum(0).to(sinks.dtype), None, None

        torch.library.register_autograd(f"blockzoo_cpu::{name}", gradients, setup_context=_keep, lib=OPS)
        torch.library.register_autograd(f"blockzoo_cpu::{name}_backward", no_second, lib=OPS)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None, sinks: Tensor | None
    ) -> Tensor:
        """y (B, H, T, Dv) of the op ``attention``; keys go by index."""
        parts = (q, k, v, sinks)
        made = getattr(torch.ops.blockzoo_cpu, self.forward.name) if trains(*parts) else self.forward
        y: Tensor = made(*parts, window or 0, scale)[0]  # 0: none
        return y


def refusal(call: Call) -> str | None:
    """Why no type of numbers serves this call, or None."""
    if call.static.get("softcap") is not None:
        return "has no softcap"
    if call.static.get("bias"):
        return "adds no bias to scores"
    if call.static.get("dropout"):
        return "drops no weights out"
    return problem()


def trains(*parts: Tensor | None) -> bool:
    """Whether gradients will be asked for."""
    return torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts)


def _ready(*arguments: Any) -> tuple[Any, ...]:
    """Heads are read where they lie, as long as each token's features lie side by side."""
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


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *parts, ctx.window, ctx.scale = inputs
    ctx.save_for_backward(*parts, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
