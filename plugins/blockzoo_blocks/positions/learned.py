"""Learned absolute positions, added to the embedding: GPT-2, OPT."""

from __future__ import annotations

from torch import Tensor, nn

from blockzoo.blocks import AdditivePositionConfig, Cost, Dims, Parameter, Role


class LearnedPositionConfig(AdditivePositionConfig):
    """Learned absolute positions, one vector for each of context_length.

    YAML: ``embedding: {position: learned}``.
    """

    def build(self, dims: Dims) -> LearnedPosition:
        return LearnedPosition(dims.context_length, dims.d_model)

    def cost(self, dims: Dims) -> Cost:
        return Cost({"weight": Parameter((dims.context_length, dims.d_model), Role.EMBEDDING)})


class LearnedPosition(nn.Embedding):
    """positions (B, T) -> (B, T, D); padding (-1) gets some row, as its output is never looked at."""

    def forward(self, positions: Tensor) -> Tensor:
        return super().forward(positions.clamp(min=0))
