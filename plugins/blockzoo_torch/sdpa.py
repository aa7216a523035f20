"""Attention by ``torch.nn.functional.scaled_dot_product_attention``, forward and backward on every device.

A sink is a key of its own in front of all others: queries get one more feature that holds the head's sink, this key
holds 1 / scale there and every other key 0, so its score is the sink; its value is zero. That keeps the sink
differentiable and the mask free of heads, where a float mask with a sink column would need (H, T, S) memory and a
gradient that the fused kernels lack.

Axes: B batch, T queries, S keys, H query heads, Hk key heads, Dh head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.step import Keys
from blockzoo_blocks.mixers.attention import visible
from blockzoo_torch.recomputed import causal_attention, pays


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    if call.static.get("softcap") is not None:
        return no("scaled_dot_product_attention has no softcap")
    return YES


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
    assert softcap is None
    n_queries, n_keys = q.shape[2], k.shape[2]
    by_index = keys.consecutive and bias is None
    windowed = window is not None and window < n_keys
    if by_index and n_queries == 1 and not windowed:
        mask, causal = None, False
    elif by_index and n_queries == n_keys and not windowed:
        mask, causal = None, True
    elif by_index:
        mask, causal = _index_mask(n_queries, n_keys, window, q.device), False
    else:
        mask, causal = _position_mask(positions, keys.positions, window, bias, q.dtype), False
    grouped = k.shape[1] != q.shape[1]
    if sinks is not None:
        return _with_sinks(q, k, v, sinks, mask, causal, scale, dropout, grouped)
    if causal and not dropout and pays(q, k, v):
        return causal_attention(q, k, v, scale)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return y if mask is None or by_index else _blank(y, mask)


def _with_sinks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    dropout: float,
    grouped: bool,
) -> Tensor:
    spare = 8 - q.shape[-1] % 8  # features to the next multiple of 8, which the fused kernels want
    column = F.pad(sinks.to(q.dtype)[None, :, None, None].expand(*q.shape[:3], 1), (0, spare - 1))
    q = torch.cat([q, column], dim=-1)
    k = F.pad(k, (0, spare, 1, 0))
    k[..., 0, -spare] = 1 / scale
    v = F.pad(v, (0, spare, 1, 0))  # the fused kernels want one width
    if causal:  # one more query in front keeps the diagonal where it was; its output is dropped
        q = F.pad(q, (0, 0, 1, 0))
    elif mask is not None:
        mask = F.pad(mask, (1, 0), value=True if mask.dtype == torch.bool else 0.0)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return y[:, :, causal:, :-spare]


def _index_mask(n_queries: int, n_keys: int, window: int | None, device: torch.device) -> Tensor:
    """(T, S) bool for queries that end with the keys."""
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    distance = query - torch.arange(n_keys, device=device)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _position_mask(
    positions: Tensor, key_positions: Tensor, window: int | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(B, 1, T, S) bool, or (B, H, T, S) in ``dtype`` with a bias in it."""
    seen = visible(positions, key_positions, window)
    return seen if bias is None else bias.to(dtype).masked_fill(~seen, float("-inf"))


def _blank(y: Tensor, mask: Tensor) -> Tensor:
    """Zeros where a query sees nothing (padding): what the softmax of nothing gives differs between backends."""
    seen = mask if mask.dtype == torch.bool else mask != float("-inf")
    return torch.where(seen.any(dim=-1, keepdim=True), y, 0.0)


SDPA = Kernel("sdpa", attend, supports, backward=True, compile_safe=True, priority=50)
