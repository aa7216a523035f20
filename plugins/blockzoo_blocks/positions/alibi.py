"""Attention with linear biases: Press et al. 2021, arXiv:2108.12409. Used by BLOOM and MPT.

Each head subtracts slope * distance from its scores. For n heads, a power of two, slopes are 2^(-8 i / n), i from 1;
for other n the paper's code takes those of the power of two below and every second one of the power of two above.
"""

from __future__ import annotations

from math import floor, log2
from typing import ClassVar

import torch
from torch import Tensor, nn

from blockzoo.blocks import AttentionPositionConfig, PositionForm
from blockzoo.step import Step


class AlibiConfig(AttentionPositionConfig):
    """Linear biases on scores by distance.

    YAML: ``position: alibi``.
    """

    form: ClassVar[PositionForm] = "biasing"

    def build(self, head_dim: int, n_heads: int) -> Alibi:
        return Alibi(n_heads)


class Alibi(nn.Module):
    """A bias on the scores, nothing on queries and keys."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.slopes = alibi_slopes(n_heads)

    def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        return q, k

    def bias(self, positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = (positions[:, None, :, None] - key_positions[:, None, None, :]).float()  # (B, 1, T, S)
        return distance * -torch.tensor(self.slopes, device=positions.device)[:, None, None]


def alibi_slopes(n_heads: int) -> list[float]:
    """One slope a head."""
    below = 2 ** floor(log2(n_heads))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    between = [2 ** (-8 * (i + 1) / (2 * below)) for i in range(0, 2 * (n_heads - below), 2)]
    return slopes + between
