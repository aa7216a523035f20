"""The op ``attention`` block by block, in memory linear in the text: Milakov & Gimelshein 2018, arXiv:1805.02867, and
Rabe & Staats 2021, arXiv:2112.05682; on GPUs it became FlashAttention.

A running maximum and a running sum let the softmax of a row be taken piece by piece: when a later block raises the
maximum, what was summed so far is scaled down. A sink is where the two begin. Plain PyTorch, so it runs everywhere
and is no faster than the fused kernels; it serves where it is asked for by name.

Axes: B batch, Hk key heads, G query heads a key head, T queries, S keys, Dh head_dim, Dv width of values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blockzoo.hookspecs import hookimpl
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.registry import Registrar
from blockzoo.step import Keys

BLOCK = 512  # queries and keys at a time


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    if call.phase == "train" and call.static.get("dropout"):  # no other phase has any
        return no("online_softmax has no dropout")
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
    assert dropout == 0.0
    n_queries, n_keys, grouped = q.shape[2], k.shape[2], (k.shape[1], -1)
    q = q.unflatten(1, grouped)  # (B, Hk, G, T, Dh)
    bias = None if bias is None else bias.unflatten(1, grouped)
    sinks = None if sinks is None else sinks.unflatten(0, grouped)  # (Hk, G)
    outputs = []
    for start in range(0, n_queries, BLOCK):
        rows = slice(start, min(start + BLOCK, n_queries))
        running = _Softmax(q[:, :, :, rows], v, sinks)
        for columns in _blocks(rows, n_queries, n_keys, window, keys.consecutive):
            scores = (running.q @ k[:, :, None, columns].mT.to(running.q.dtype)) * scale  # (B, Hk, G, T, S)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if bias is not None:
                scores = scores + bias[:, :, :, rows, columns]
            distance = positions[:, rows, None] - keys.positions[:, None, columns]
            seen = (distance >= 0) & (keys.positions[:, None, columns] >= 0)
            if window is not None:
                seen = seen & (distance < window)
            running.add(scores.masked_fill(~seen[:, None, None], float("-inf")), v[:, :, None, columns])
        outputs.append(running.result())
    return torch.cat(outputs, dim=3).flatten(1, 2).to(v.dtype)


class _Softmax:
    """The softmax of some rows of scores times values, taken in pieces, in float32 (float64 where q is)."""

    def __init__(self, q: Tensor, v: Tensor, sinks: Tensor | None) -> None:
        self.q = q.to(torch.promote_types(q.dtype, torch.float32))
        # not -inf: the difference of two of these is to be 0
        self.greatest = torch.full_like(self.q[..., :1], torch.finfo(self.q.dtype).min)
        self.total = torch.zeros_like(self.greatest)
        self.mean = self.q.new_zeros(*q.shape[:-1], v.shape[-1])
        if sinks is not None:
            self.greatest = self.greatest.clone().copy_(sinks[:, :, None, None])
            self.total = torch.ones_like(self.total)

    def add(self, scores: Tensor, v: Tensor) -> None:
        greatest = torch.maximum(self.greatest, scores.amax(dim=-1, keepdim=True))
        weights, shrink = (scores - greatest).exp(), (self.greatest - greatest).exp()
        self.total = self.total * shrink + weights.sum(dim=-1, keepdim=True)
        self.mean = self.mean * shrink + weights @ v.to(weights.dtype)
        self.greatest = greatest

    def result(self) -> Tensor:
        """A row that saw nothing is zero."""
        return self.mean / torch.where(self.total == 0, 1.0, self.total)


def _blocks(rows: slice, n_queries: int, n_keys: int, window: int | None, by_index: bool) -> list[slice]:
    """The keys that some of these queries may see; where index tells (see ``Keys``), the others are never touched."""
    first, end = 0, n_keys
    if by_index:
        end = n_keys - n_queries + rows.stop
        if window is not None:
            first = max(0, n_keys - n_queries + rows.start - window + 1)
    return [slice(start, min(start + BLOCK, end)) for start in range(first, end, BLOCK)]


ONLINE_SOFTMAX = Kernel("online_softmax", attend, supports, compile_safe=True, priority=-10)


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    registry.kernel("attention", ONLINE_SOFTMAX)
