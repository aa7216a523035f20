"""What the tests of attention of many queries share: heads, and results with their gradients beside exact ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blockzoo.step import Keys
from blockzoo_blocks.mixers.attention import attention_reference


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def heads(
    tokens: int,
    n_heads: int = 2,
    kv_heads: int = 2,
    width: int = 64,
    value_width: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> list[Tensor]:
    """q, k, v and the gradient of y as projections give them: (B, T, H, D) seen as (B, H, T, D)."""
    wide = width if value_width is None else value_width
    sizes = ((n_heads, width), (kv_heads, width), (kv_heads, wide), (n_heads, wide))
    return [drawn(2, tokens, *size, seed=i, dtype=dtype).transpose(1, 2) for i, size in enumerate(sizes)]


def results(
    function: Callable[..., Tensor], parts: list[Tensor], sinks: Tensor | None = None, **options: Any
) -> list[Tensor]:
    """y and the gradients of q, k, v and sinks."""
    *leaves, dy = parts
    leaves = [x.detach().requires_grad_() for x in (*leaves, *([] if sinks is None else [sinks]))]
    positions = torch.arange(dy.shape[2]).expand(dy.shape[0], -1)
    said = {"scale": leaves[0].shape[-1] ** -0.5, "sinks": None if sinks is None else leaves[3], **options}
    y = function(*leaves[:3], positions, Keys(positions, True), **said)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def exact(parts: list[Tensor], sinks: Tensor | None = None, **options: Any) -> list[Tensor]:
    doubles = [x.double() for x in parts]
    return results(attention_reference, doubles, None if sinks is None else sinks.double(), **options)


def errors(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm().clamp(min=1)) for a, b in zip(found, wanted, strict=True)]
