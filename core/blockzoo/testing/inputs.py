"""What blocks are built for and called with: sizes, numbers, passes.

Axes: B batch, T tokens, D d_model, H heads, Dh head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blockzoo.blocks import Dims
from blockzoo.step import Phase, Step

BATCH, LENGTH = 2, 12
DIMS = Dims(d_model=32, n_layers=2, context_length=64)
HEADS, HEAD_DIM = 4, 8


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, the same ones in every dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(dtype: torch.dtype = torch.float32, seed: int = 0, length: int = LENGTH, batch: int = BATCH) -> Tensor:
    """x (B, T, D)."""
    return draw(batch, length, DIMS.d_model, seed=seed, dtype=dtype)


def step_of(batch: int = BATCH, length: int = LENGTH, start: int = 0) -> Step:
    """A pass without a cache: positions from ``start`` on."""
    slots = torch.arange(length).expand(batch, length)
    phase: Phase = "train" if torch.is_grad_enabled() else "prefill"
    return Step(slots + start, slots, phase, consecutive=True, start=0)


def padded_step(real: Tensor) -> Step:
    """A pass in which only the tokens ``real`` (B, T) bool are any; they count from 0 in every row."""
    slots = torch.where(real, real.cumsum(dim=1) - 1, -1)
    phase: Phase = "train" if torch.is_grad_enabled() else "prefill"
    return Step(slots, slots, phase, consecutive=False)
