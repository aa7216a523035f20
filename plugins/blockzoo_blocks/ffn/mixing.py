"""The op that ends a mixture of experts: its definition in plain PyTorch, and inputs to try kernels on.

Axes: N tokens, K experts a token, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from blockzoo.kernels import Example, Op


def mix_experts_reference(y: Tensor, weights: Tensor) -> Tensor:
    """y (N K, D), what each token's experts gave, token by token, times weights (N, K), float32 or wider, added up:
    (N, D). Weights are cast to y's dtype before they multiply.
    """
    return (y.unflatten(0, weights.shape) * weights[..., None].to(y.dtype)).sum(dim=1)


def examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """One token and several, one expert and several, a width of no power of two."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for n, k, d in ((1, 4, 64), (3, 2, 37), (16, 8, 40), (2, 1, 1)):
        y = torch.randn(n * k, d, generator=generator).to(device, dtype)
        weights = torch.rand(n, k, generator=generator).to(device, wide)
        yield Example(f"{n} tokens of {k} experts, {d}", (y, weights))


MIX_EXPERTS = Op(
    "mix_experts",
    mix_experts_reference,
    examples,
    {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
)
