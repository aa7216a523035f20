"""The attention op: its definition in plain PyTorch, and inputs to try kernels on.

Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) with grouped queries (Ainslie et al. 2023,
arXiv:2305.13245), sliding windows (Beltagy et al. 2020, arXiv:2004.05150) and learned sinks: one logit a head that
takes part in the softmax and brings no value (gpt-oss; Xiao et al. 2023, arXiv:2309.17453).

A slot's static facts, for ``supports``: n_heads, n_kv_heads, head_dim and scale always; window, softcap (numbers or
None), sinks, bias (bools) and dropout (a rate) where a mixer has them, absent meaning none.

Axes: B batch, T queries, S keys, H query heads, Hk key heads (H a multiple), Dh head_dim, Dv width of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.kernels import Example, Op
from blockzoo.step import Keys


def visible(positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor:
    """Which keys a query sees: (B, T), (B, S) -> (B, 1, T, S) bool. A window of w is the query itself and w - 1
    before it.
    """
    distance = positions[:, None, :, None] - key_positions[:, None, None, :]
    seen = (distance >= 0) & (key_positions >= 0)[:, None, None, :]
    return seen if window is None else seen & (distance < window)


def attention_reference(
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
    """q (B, H, T, Dh), k (B, Hk, S, Dh), v (B, Hk, S, Dv) -> (B, H, T, Dv). A query that sees nothing gives zeros.

    ``softcap`` c turns scores into c * tanh(scores / c); ``bias`` (B, H, T, S) is added to the scaled scores;
    ``sinks`` (H,).
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(-1, -2)).float() * scale if q.dtype != torch.float64 else q @ k.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    seen = visible(positions, keys.positions, window)
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is None:
        lowest = torch.zeros_like(scores[..., :1]).masked_fill(seen.any(-1, keepdim=True), float("-inf"))
        scores = torch.cat([scores, lowest], dim=-1)  # gives a query that sees nothing somewhere to look
    else:
        column = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = F.dropout(scores.softmax(dim=-1)[..., :-1], dropout)
    return weights.to(q.dtype) @ v


def examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """Plain, grouped, padded, head_dim of no power of two; each option alone and beside others, of many queries and of
    one (decoding); positions that are no indices.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    def case(
        name: str,
        t: int,
        s: int,
        h: int = 4,
        hk: int = 4,
        dh: int = 16,
        dv: int = 16,
        at: tuple[list[list[int]], list[list[int]]] | None = None,
        **options: object,
    ) -> Example:
        """``at``: positions (B, T) and (B, S) where they are not the last T of S consecutive ones."""
        positions = torch.arange(s - t, s, device=device).expand(2, t)
        key_positions = torch.arange(s, device=device).expand(2, s)
        if at is not None:
            positions, key_positions = (torch.tensor(rows, device=device) for rows in at)
        said = {"scale": dh**-0.5, "window": None, "softcap": None, **options}
        brings = {part: part in options for part in ("sinks", "bias")}
        return Example(
            name,
            (draw(2, h, t, dh), draw(2, hk, s, dh), draw(2, hk, s, dv), positions, Keys(key_positions, at is None)),
            {"scale": dh**-0.5, **options},
            static={"n_heads": h, "n_kv_heads": hk, "head_dim": dh, "dropout": 0.0, **said, **brings},
            phases=("decode",) if t == 1 and s > 1 else ("train", "prefill"),
        )

    def left_padded(s: int, t: int) -> tuple[list[list[int]], list[list[int]]]:
        rows = [[-1] * (s // 2) + list(range(s // 2, s)), list(range(s))]
        return [row[s - t :] for row in rows], rows

    def apart(s: int, t: int) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens of which some are left out: positions are no indices, and no two rows have the same."""
        rows = [[2 * i + i // 3 for i in range(s)], [3 * i + 5 for i in range(s)]]
        return [row[s - t :] for row in rows], rows

    yield case("plain", 9, 9)
    yield case("one token", 1, 1)
    yield case("grouped", 33, 33, h=6, hk=2)
    yield case("multi-query, odd head_dim", 17, 17, h=3, hk=1, dh=20)
    yield case("another scale", 11, 11, scale=0.7)
    yield case("window", 40, 40, window=7)
    yield case("window of one", 12, 12, window=1)
    yield case("window longer than the text", 12, 12, window=64)
    yield case("sinks", 21, 21, hk=2, sinks=draw(4))
    yield case("sinks and window", 40, 40, hk=2, window=8, sinks=draw(4))
    yield case("chunk after a cache", 5, 30, hk=2)
    yield case("chunk after a cache, window and sinks", 5, 30, window=6, sinks=draw(4))
    yield case("padding", 14, 14, at=left_padded(14, 14))
    yield case("padding, window, sinks", 24, 24, at=left_padded(24, 24), window=5, sinks=draw(4))
    yield case("positions apart, window", 13, 13, at=apart(13, 13), window=6)
    yield case("softcap", 15, 15, softcap=0.5)
    yield case("values wider than keys, sinks", 19, 19, hk=2, dv=24, sinks=draw(4))
    yield case("many keys", 3, 1100, h=2, hk=1, window=1050, sinks=draw(2))
    yield case("bias", 15, 15, bias=draw(2, 4, 15, 15).float())

    yield case("decode", 1, 30, hk=2, sinks=draw(4))
    yield case("decode, plain", 1, 9)
    yield case("decode, another scale", 1, 11, scale=0.7)
    yield case("decode, window", 1, 20, window=6)
    yield case("decode, window, grouped", 1, 20, h=6, hk=2, dh=20, window=6)
    yield case("decode in a window's ring", 1, 8, hk=2, window=8)
    yield case("decode, softcap", 1, 15, softcap=0.5)
    yield case("decode, bias", 1, 15, bias=draw(2, 4, 1, 15).float())
    every: dict[str, Any] = {"window": 7, "softcap": 2.0, "sinks": draw(4), "bias": draw(2, 4, 1, 18).float()}
    yield case("decode, every option", 1, 18, hk=2, **every)
    yield case("decode, values wider than keys", 1, 12, dv=24)
    yield case("values narrower than keys", 1, 19, hk=2, dv=8)
    yield case("padded cache", 1, 20, at=left_padded(20, 1))
    yield case("decode, a row of padding that sees nothing", 1, 6, at=([[-1], [5]], [[-1] * 6, list(range(6))]))
    yield case("decode, positions apart, window", 1, 13, at=apart(13, 1), window=6)
    ring = [[8, 9, 10, 3, 4, 5, 6, 7], [6, 7, -1, -1, 2, 3, 4, 5]]  # the oldest are overwritten first
    yield case("decode in rings of rows of their own", 1, 8, hk=2, at=([[10], [7]], ring), window=5, sinks=draw(4))


def sizes(q: Tensor, k: Tensor, *rest: object, **options: object) -> dict[str, int]:
    """The statics of a call that aren't arguments."""
    return {"n_heads": q.shape[1], "n_kv_heads": k.shape[1], "head_dim": q.shape[-1]}


ATTENTION = Op(
    "attention",
    attention_reference,
    examples,
    {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3},
    static=frozenset({"n_heads", "n_kv_heads", "head_dim", "scale", "window", "softcap", "sinks", "bias", "dropout"}),
    facts=sizes,
)
