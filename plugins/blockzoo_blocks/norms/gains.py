"""Gains of norms: one a feature, one a feature of each head, or none."""

from __future__ import annotations

from torch import Tensor


def gains_shape(dim: int, heads: int | None) -> tuple[int, ...]:
    """(dim,), or (heads, dim) where each head has its own."""
    return (dim,) if heads is None else (heads, dim)


def gains_told(weight: bool, by_head: bool) -> str | None:
    """The static fact ``gains`` of norms' ops: ``none``, ``each_head``, or None for (D,)."""
    if not weight:
        return "none"
    return "each_head" if by_head else None


def by_head(*parts: Tensor | None) -> bool:
    """Whether gains or biases are of each head."""
    return any(part is not None and part.dim() == 2 for part in parts)
