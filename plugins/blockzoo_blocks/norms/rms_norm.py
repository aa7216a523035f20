"""Root-mean-square norm: Zhang & Sennrich 2019, arXiv:1910.07467. Used by Llama, Qwen3, gpt-oss, Gemma; without
gains by nanochat and on Llama 4's queries and keys.

Two roundings are in use, and in bfloat16 they differ in about a quarter of all outputs: multiply by the weight in
float32 and cast once (gpt-oss, Gemma), or cast first and multiply in the activations' dtype (Qwen3, Llama).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from blockzoo.blocks import Cost, Dims, NormConfig, Parameter, Role, filled
from blockzoo.kernels import Example, Op, Slot
from blockzoo.linear import phase_of
from blockzoo_blocks.norms.gains import by_head, gains_shape, gains_told


class RMSNormConfig(NormConfig):
    """Root-mean-square norm, in both roundings.

    YAML: ``norm: {type: rms_norm, eps: 1.0e-6}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "RMSNorm"

    eps: PositiveFloat = Field(1e-6, description="added to the mean square before the root")
    scale_in_fp32: bool = Field(True, description="multiply by the weight before the cast to the input's dtype")
    weight_offset: float = Field(0.0, description="added to the weight; Gemma stores gains around zero and adds 1")
    weight: bool = Field(True, description="a gain")

    @classmethod
    def samples(cls) -> list[RMSNormConfig]:
        return [cls(), cls(scale_in_fp32=False, eps=1e-3), cls(weight_offset=1.0), cls(weight=False)]

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if not self.weight and self.weight_offset:
            yield "weight_offset", f"{self.weight_offset:g} is added to the weight, and weight is false: leave one out"

    def build(self, dim: int, heads: int | None = None) -> RMSNorm:
        """``heads``: gains (heads, dim), for inputs (..., heads, dim)."""
        return RMSNorm(
            dim, self.eps, self.scale_in_fp32, weight_offset=self.weight_offset, weight=self.weight, heads=heads
        )

    def cost(self, dim: int, heads: int | None = None) -> Cost:
        shape = gains_shape(dim, heads)
        gain = Parameter(shape, Role.GAIN, init=filled(1.0 - self.weight_offset))
        return Cost({"weight": gain} if self.weight else {})


def rms_norm(x: Tensor, weight: Tensor | None, *, eps: float, scale_in_fp32: bool, weight_offset: float) -> Tensor:
    """x (..., D) / rms(x) * (weight (D,) + weight_offset), in x's dtype; the root in float32 or wider. Weight (H, D)
    is that of each head of x (..., H, D); of None there is no second factor.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    if weight is None:
        return normed.to(x.dtype)
    if not scale_in_fp32:
        normed = normed.to(x.dtype)
    gain = weight.to(normed.dtype)
    return (normed * (gain + weight_offset if weight_offset else gain)).to(x.dtype)


ONE_ROUNDING = {torch.bfloat16: 2e-3, torch.float16: 4e-4}
"""Less than a unit in the last place of 2.44, more than float32 leaves open."""


def examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """Heads, a token, several; widths of no power of two, one number; both roundings, with an eps that counts too;
    gains for each head, and none.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 3, 16), (1, 1, 100), (2, 7, 48), (5, 1), (3, 577))
    for late in (True, False):
        rounding = "fp32 gain" if late else "early cast"
        for offset, eps, these in ((0.0, 1e-6, shapes), (1.0, 1e-6, shapes), (0.0, 1e-2, shapes[:3])):
            how = {"eps": eps, "scale_in_fp32": late, "weight_offset": offset}
            told = f"{rounding}{', offset' * bool(offset)}{', eps 0.01' * (eps == 1e-2)}"
            for shape in these:
                x, weight = (torch.randn(s, generator=generator) for s in (shape, shape[-1:]))
                x = x * (0.1 if eps == 1e-2 else 1.0)  # a mean square no greater than eps
                yield Example(f"{shape}, {told}", (x.to(device, dtype), weight.to(device, dtype)), how, static=how)
        how = {"eps": 1e-6, "scale_in_fp32": late, "weight_offset": 0.0}
        given = (torch.tensor(row, dtype=dtype, device=device) for row in ([3.0, 1.0], [1.8203125, 1.0]))
        yield Example(f"{rounding}, to the last bit", (*given,), how, static=how, within=ONE_ROUNDING.get(dtype))
        for shape in ((2, 3, 4, 20), (1, 1, 2, 64)):
            for gains, size in (("each_head", shape[-2:]), ("none", None)):
                x = torch.randn(shape, generator=generator).to(device, dtype)
                own = None if size is None else torch.randn(size, generator=generator).to(device, dtype)
                yield Example(f"{shape}, {rounding}, gains {gains}", (x, own), how, static={**how, "gains": gains})
        if dtype in (torch.bfloat16, torch.float16):  # a file may hold what is small in float32
            for shape in ((1, 1, 48), (2, 3, 20)):
                x, weight = (torch.randn(s, generator=generator).to(device) for s in (shape, shape[-1:]))
                yield Example(f"{shape}, {rounding}, a float32 weight", (x.to(dtype), weight), how, static=how)


RMS_NORM = Op(
    "rms_norm",
    rms_norm,
    examples,
    {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    static=frozenset({"eps", "scale_in_fp32", "weight_offset", "gains"}),
    facts=lambda x, weight, **how: {"gains": gains_told(weight is not None, by_head(weight))},
)


class RMSNorm(nn.Module):
    """x / rms(x) * (weight + offset) over the last axis. Shape (..., D) -> (..., D), dtype kept. With ``heads`` each
    head of (..., heads, D) has a weight of its own.
    """

    def __init__(
        self,
        dim: int,
        eps: float = 1e-6,
        scale_in_fp32: bool = True,
        weight_offset: float = 0.0,
        weight: bool = True,
        heads: int | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(gains_shape(dim, heads))) if weight else None
        self.eps = eps
        self.scale_in_fp32 = scale_in_fp32
        self.weight_offset = weight_offset
        self.slot = Slot(
            RMS_NORM,
            eps=eps,
            scale_in_fp32=scale_in_fp32,
            weight_offset=weight_offset,
            gains=gains_told(weight, heads is not None),
        )

    def forward(self, x: Tensor) -> Tensor:
        norm = self.slot[phase_of(x.numel() // x.shape[-1])]
        return norm(x, self.weight, eps=self.eps, scale_in_fp32=self.scale_in_fp32, weight_offset=self.weight_offset)

    def extra_repr(self) -> str:
        gains = "no gains" if self.weight is None else tuple(self.weight.shape)
        return f"{gains}, eps={self.eps}, scale_in_fp32={self.scale_in_fp32}"
