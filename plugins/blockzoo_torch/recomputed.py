"""Causal attention whose backward is a few plain products, for training in bfloat16 on a CPU.

There the fused backward of torch takes five times as long as its forward, since its tiles are too small for AMX.
Recomputing the weights of one sequence at a time, as FlashAttention does (Dao et al. 2022, arXiv:2205.14135) for a
tile, takes 0.35 of that at 128 tokens, 0.6 at 256 and 0.8 at 512; then the weights no longer fit into the cache.

Axes: B batch, H heads, T tokens, Dh head_dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MOST_TOKENS = 512


def pays(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether ``causal_attention`` is the faster one; it wants as many heads of keys as of queries."""
    trains = torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v))
    small = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= MOST_TOKENS
    return trains and small and q.shape[1] == k.shape[1] and not torch.compiler.is_compiling()


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T, causal) v: q, k (B, H, T, Dh), v (B, H, T, Dv) -> (B, H, T, Dv).

    Softmax and its gradient are computed in float32; in backward from scores rounded to the inputs' dtype, as autocast
    rounds those of attention written out. It has no second derivative.
    """
    return _CausalAttention.apply(q, k, v, scale)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(part) for part in inputs)
        n_tokens, dtype = gradient.shape[2], gradient.dtype
        future = torch.full((n_tokens, n_tokens), float("-inf"), dtype=dtype).triu(1)
        for index, sequence in enumerate(zip(*inputs, gradient, strict=True)):
            q, k, v, dy = (part.contiguous() for part in sequence)  # products of strided heads take thrice as long
            q = q * ctx.scale
            weights = (q @ k.mT).add_(future).softmax(-1)  # (H, T, T)
            dscores = torch.ops.aten._softmax_backward_data(dy @ v.mT, weights, -1, dtype)
            dq[index] = (dscores @ k).mul_(ctx.scale)
            dk[index] = dscores.mT @ q
            dv[index] = weights.mT @ dy
        return dq, dk, dv, None
