"""Dynamic tanh, a norm without statistics: Zhu et al. 2025, arXiv:2503.10622."""

import torch
from pydantic import Field
from torch import nn

from blockzoo.blocks import Cost, NormConfig, Parameter, Role, filled


class DynamicTanhConfig(NormConfig):
    """YAML: ``norm: {type: dynamic_tanh, alpha: 0.5}``."""

    alpha: float = Field(0.5, gt=0, description="the slope before the tanh, at the start")

    def build(self, dim):
        return DynamicTanh(dim)

    def cost(self, dim):
        return Cost(
            {
                "alpha": Parameter((1,), Role.OTHER, init=filled(self.alpha)),
                "weight": Parameter((dim,), Role.GAIN),
                "bias": Parameter((dim,), Role.BIAS),
            }
        )


class DynamicTanh(nn.Module):
    """tanh(alpha * x) * weight + bias. Shape (..., D) -> (..., D), dtype kept."""

    def __init__(self, dim):
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def forward(self, x):
        return torch.tanh(self.alpha * x) * self.weight + self.bias
