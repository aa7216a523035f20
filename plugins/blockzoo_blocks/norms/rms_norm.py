"""Root-mean-square norm: Zhang & Sennrich 2019, arXiv:1910.07467. Used by Llama, Qwen3, gpt-oss, Gemma.

Two roundings are in use, and in bfloat16 they differ in about a quarter of all outputs: multiply by the weight in
float32 and cast once (gpt-oss, Gemma), or cast first and multiply in the activations' dtype (Qwen3, Llama).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from blockzoo.blocks import Cost, NormConfig, Parameter, Role, filled


class RMSNormConfig(NormConfig):
    """Root-mean-square norm, in both roundings.

    YAML: ``norm: {type: rms_norm, eps: 1.0e-6}``.
    """

    label: ClassVar[str] = "RMSNorm"

    eps: PositiveFloat = Field(1e-6, description="added to the mean square before the root")
    scale_in_fp32: bool = Field(True, description="multiply by the weight before the cast to the input's dtype")
    weight_offset: float = Field(0.0, description="added to the weight; Gemma stores gains around zero and adds 1")

    @classmethod
    def samples(cls) -> list[RMSNormConfig]:
        return [cls(), cls(scale_in_fp32=False), cls(weight_offset=1.0)]

    def build(self, dim: int) -> RMSNorm:
        return RMSNorm(dim, eps=self.eps, scale_in_fp32=self.scale_in_fp32, weight_offset=self.weight_offset)

    def cost(self, dim: int) -> Cost:
        return Cost({"weight": Parameter((dim,), Role.GAIN, init=filled(1.0 - self.weight_offset))})


class RMSNorm(nn.Module):
    """x / rms(x) * (weight + offset) over the last axis. Shape (..., D) -> (..., D), dtype kept."""

    def __init__(self, dim: int, eps: float = 1e-6, scale_in_fp32: bool = True, weight_offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps
        self.scale_in_fp32 = scale_in_fp32
        self.weight_offset = weight_offset

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        if self.scale_in_fp32:
            return (normed * self._gain(wide.dtype)).to(x.dtype)
        return normed.to(x.dtype) * self._gain(x.dtype)

    def _gain(self, dtype: torch.dtype) -> Tensor:
        weight = self.weight.to(dtype)
        return weight + self.weight_offset if self.weight_offset else weight

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}, scale_in_fp32={self.scale_in_fp32}"
