"""Layer norm: Ba et al. 2016, arXiv:1607.06450. Used by GPT-2, GPT-J, OPT, BLOOM.

The statistics are taken in float32 whatever the input's dtype.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat
from torch import nn

from blockzoo.blocks import Cost, NormConfig, Parameter, Role


class LayerNormConfig(NormConfig):
    """Layer norm with float32 statistics.

    YAML: ``norm: {type: layer_norm, eps: 1.0e-5}``.
    """

    label: ClassVar[str] = "LayerNorm"

    eps: PositiveFloat = Field(1e-5, description="added to the variance before the root")
    bias: bool = Field(True, description="a bias beside the gain")

    @classmethod
    def samples(cls) -> list[LayerNormConfig]:
        return [cls(), cls(eps=1e-3, bias=False)]

    def build(self, dim: int) -> nn.Module:
        return nn.LayerNorm(dim, eps=self.eps, bias=self.bias)

    def cost(self, dim: int) -> Cost:
        gain = {"weight": Parameter((dim,), Role.GAIN)}
        return Cost({**gain, "bias": Parameter((dim,), Role.BIAS)} if self.bias else gain)
