"""Learned absolute positions, added to the embedding: GPT-2, OPT."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.blocks import AdditivePositionConfig, Cost, Dims, Parameter, Role


class LearnedPositionConfig(AdditivePositionConfig):
    """Learned absolute positions, one vector for each of context_length.

    YAML: ``embedding: {position: learned}``.
    """

    recordable: ClassVar[bool] = True

    def build(self, dims: Dims) -> LearnedPosition:
        return LearnedPosition(dims.context_length, dims.d_model)

    def cost(self, dims: Dims) -> Cost:
        return Cost({"weight": Parameter((dims.context_length, dims.d_model), Role.EMBEDDING)})


class LearnedPosition(nn.Module):
    """positions (B, T) -> (B, T, D); padding (-1) gets some row, as its output is never looked at.

    No ``nn.Embedding``: that draws its weight as it is made, for which PyTorch imports its compiler on the meta device.
    """

    def __init__(self, n_positions: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_positions, dim))

    def forward(self, positions: Tensor) -> Tensor:
        return F.embedding(positions.clamp(min=0), self.weight)
