"""Attention by plain matrix products, the query heads of a group side by side: every key is read once and none is
copied.

It serves attention with sinks where fused attention does not pay: decoding, because that would copy the keys to add
the sink, and float32, because there the fused order of operations is 1.6e-5 off OpenAI's reference logits and this
one 2e-6. Scores are held for a slice of the queries at a time.

Axes: B batch, T queries, S keys, H query heads, Hk key heads, G query heads a key head, Dh head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.step import Keys
from blockzoo_blocks.mixers.attention import visible

SCORES = 1 << 26
"""Scores held at a time; a slice has at least one query."""


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    if not call.static.get("sinks"):
        return no("without sinks fused attention is faster")
    if call.phase == "decode" or call.dtype in (torch.float32, torch.float64):
        return YES
    return no(f"serves decoding and float32; in {str(call.dtype).removeprefix('torch.')} fused attention is faster")


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
    grouped = q.unflatten(1, (k.shape[1], -1))  # (B, Hk, G, T, Dh)
    biases = None if bias is None else bias.expand(-1, q.shape[1], -1, -1).unflatten(1, (k.shape[1], -1))
    rows = max(1, SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    slices = [slice(start, start + rows) for start in range(0, q.shape[2], rows)]
    parts = []
    for part in slices:
        scores = _scores(grouped[:, :, :, part], k, scale)  # (B, Hk, G, t, S)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if biases is not None:
            scores = scores + biases[:, :, :, part]
        weights = _weights(scores, _seen(positions[:, part], keys, window), sinks, dropout).to(q.dtype)
        parts.append((weights.flatten(2, 3) @ v).unflatten(2, weights.shape[2:4]))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)).flatten(1, 2)


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    products = (q.flatten(2, 3) @ k.transpose(-1, -2)).unflatten(2, q.shape[2:4])
    return products * scale if q.dtype == torch.float64 else products.float() * scale


def _seen(positions: Tensor, keys: Keys, window: int | None) -> Tensor | None:
    """(B, 1, 1, t, S) bool, or None where one query sees every key."""
    if keys.consecutive and positions.shape[1] == 1 and (window is None or keys.positions.shape[1] <= window):
        return None
    return visible(positions, keys.positions, window)[:, :, None]


def _weights(scores: Tensor, seen: Tensor | None, sinks: Tensor | None, dropout: float) -> Tensor:
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, *scores.shape[1:3], 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
        if seen is not None:  # a query that sees nothing (padding) gives zeros
            weights = weights.masked_fill(~seen.any(dim=-1, keepdim=True), 0.0)
    return F.dropout(weights, dropout)


GROUPED = Kernel("grouped", attend, supports, backward=True, compile_safe=True, priority=60)
