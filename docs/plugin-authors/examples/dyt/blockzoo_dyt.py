"""Dynamic tanh, a norm that computes no statistics: Zhu et al. 2025, arXiv:2503.10622."""

import torch
from pydantic import Field
from torch import nn

from blockzoo.blocks import Cost, NormConfig, Parameter, Role, filled


class DyTConfig(NormConfig):
    """YAML: ``norm: {type: dyt, alpha: 0.5}``."""

    alpha: float = Field(0.5, gt=0, description="the slope at zero, before training")

    def build(self, dim: int) -> nn.Module:
        return DyT(dim)

    def cost(self, dim: int) -> Cost:
        return Cost(
            {
                "alpha": Parameter((1,), Role.GAIN, init=filled(self.alpha)),
                "weight": Parameter((dim,), Role.GAIN),
                "bias": Parameter((dim,), Role.BIAS),
            }
        )


class DyT(nn.Module):
    """weight * tanh(alpha * x) + bias. Shape (..., D) -> (..., D), dtype kept."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.tanh(self.alpha * x) + self.bias


def blockzoo_register(registry):
    registry.block("norm", "dyt", DyTConfig)
