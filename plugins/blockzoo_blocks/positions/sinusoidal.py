"""Sinusoidal absolute positions, added to the embedding: Vaswani et al. 2017, arXiv:1706.03762.

Even features carry sines, odd ones cosines, of position / theta^(2i / D).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from blockzoo.blocks import AdditivePositionConfig, Cost, Dims


class SinusoidalPositionConfig(AdditivePositionConfig):
    """Sinusoidal absolute positions.

    YAML: ``embedding: {position: sinusoidal}``.
    """

    recordable: ClassVar[bool] = True

    theta: PositiveFloat = Field(10000.0, description="the longest wavelength is 2 pi theta")

    @classmethod
    def samples(cls) -> list[SinusoidalPositionConfig]:
        return [cls(), cls(theta=100.0)]

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if dims.d_model % 2:
            yield "", f"sinusoidal positions need an even d_model, found {dims.d_model}"

    def build(self, dims: Dims) -> SinusoidalPosition:
        return SinusoidalPosition(dims.d_model, self.theta)

    def cost(self, dims: Dims) -> Cost:
        return Cost()


class SinusoidalPosition(nn.Module):
    """positions (B, T) -> (B, T, D) in the default dtype; the caller casts."""

    def __init__(self, d_model: int, theta: float = 10000.0) -> None:
        super().__init__()
        self.d_model = d_model
        self.theta = theta

    def forward(self, positions: Tensor) -> Tensor:
        exponents = torch.arange(0, self.d_model, 2, device=positions.device).float() / self.d_model
        angles = positions.clamp(min=0)[..., None].float() * self.theta**-exponents  # (B, T, D / 2)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
