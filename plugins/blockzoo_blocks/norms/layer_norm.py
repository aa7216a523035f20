"""Layer norm: Ba et al. 2016, arXiv:1607.06450. Used by GPT-2, GPT-J, OPT, BLOOM; without gain and bias by OLMo 1.

The statistics are taken in float32 whatever the input's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.blocks import Cost, NormConfig, Parameter, Role
from blockzoo.kernels import Example, Op, Slot
from blockzoo.linear import phase_of
from blockzoo_blocks.norms.gains import by_head, gains_shape, gains_told


class LayerNormConfig(NormConfig):
    """Layer norm with float32 statistics.

    YAML: ``norm: {type: layer_norm, eps: 1.0e-5}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "LayerNorm"

    eps: PositiveFloat = Field(1e-5, description="added to the variance before the root")
    weight: bool = Field(True, description="a gain")
    bias: bool = Field(True, description="a bias beside the gain")

    @classmethod
    def samples(cls) -> list[LayerNormConfig]:
        return [cls(), cls(eps=1e-3, bias=False), cls(weight=False, bias=False), cls(weight=False)]

    def build(self, dim: int, heads: int | None = None) -> LayerNorm:
        """``heads``: gains and biases (heads, dim), for inputs (..., heads, dim)."""
        return LayerNorm(dim, eps=self.eps, weight=self.weight, bias=self.bias, heads=heads)

    def cost(self, dim: int, heads: int | None = None) -> Cost:
        shape = gains_shape(dim, heads)
        gain = {"weight": Parameter(shape, Role.GAIN)} if self.weight else {}
        return Cost({**gain, "bias": Parameter(shape, Role.BIAS)} if self.bias else gain)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Tensor:
    """x (..., D) less its mean, over its standard deviation, times weight (D,), plus bias (D,), where there are any.
    Those of shape (H, D) are of each head of x (..., H, D). All may be of a float dtype of their own.
    """
    if not by_head(weight, bias) and all(part is None or part.dtype == x.dtype for part in (weight, bias)):
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    y = F.layer_norm(x.to(torch.promote_types(x.dtype, torch.float32)), x.shape[-1:], None, None, eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).to(x.dtype)


def examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """A token, several; widths of no power of two; rows far from zero; with and without a gain and a bias, also those
    of each head.
    """
    generator = torch.Generator().manual_seed(0)
    for shape, gain, bias, eps, mean in (
        ((1, 1, 100), True, True, 1e-5, 0),
        ((2, 7, 48), True, False, 1e-2, 0),
        ((3, 577), True, True, 1e-5, 9),
        ((1, 2, 48), False, False, 1e-5, 0),
    ):
        x, weight, b = (torch.randn(s, generator=generator) for s in (shape, shape[-1:], shape[-1:]))
        x = x + mean if mean else x / 10  # of a variance that eps is not lost beside
        args = [x, weight if gain else None, b if bias else None]
        given = tuple(arg if arg is None else arg.to(device, dtype) for arg in args)
        told = f"{shape}{', no gain' * (not gain)}{', bias' * bias}, eps {eps:g}"
        yield Example(told, given, {"eps": eps}, static={"eps": eps})
    for heads, bias in (((2, 3, 4, 20), False), ((1, 1, 2, 64), True)):
        x, weight, b = (torch.randn(s, generator=generator).to(device, dtype) for s in (heads, heads[-2:], heads[-2:]))
        static = {"eps": 1e-5, "gains": "each_head"}
        told = f"{heads}, gains each_head{', bias' * bias}"
        yield Example(told, (x, weight, b if bias else None), {"eps": 1e-5}, static)
    if dtype in (torch.bfloat16, torch.float16):  # a file may hold what is small in float32
        for size, kept in ((48, torch.float32), (20, dtype), (16, None)):
            x, weight, b = (torch.randn(s, generator=generator) for s in ((2, 3, size), (size,), (size,)))
            given = (x.to(device, dtype), weight.to(device), None if kept is None else b.to(device, kept))
            yield Example(f"{size}, a float32 weight", given, {"eps": 1e-5}, static={"eps": 1e-5})


LAYER_NORM = Op(
    "layer_norm",
    layer_norm,
    examples,
    {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    static=frozenset({"eps", "gains"}),
    facts=lambda x, weight, bias, **how: {"gains": gains_told(True, by_head(weight, bias))},
)


class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis. Shape (..., D) -> (..., D), dtype kept.
    With ``heads`` each head of (..., heads, D) has a weight and a bias of its own.
    """

    def __init__(
        self, dim: int, eps: float = 1e-5, *, weight: bool = True, bias: bool = True, heads: int | None = None
    ) -> None:
        shape = gains_shape(dim, heads)
        super().__init__(shape, eps=eps, elementwise_affine=weight, bias=bias)
        if bias and not weight:  # torch has none alone
            self.bias = nn.Parameter(torch.zeros(shape))
        self.slot = Slot(LAYER_NORM, eps=eps, gains=gains_told(True, heads is not None))

    def forward(self, x: Tensor) -> Tensor:
        return self.slot[phase_of(x.numel() // x.shape[-1])](x, self.weight, self.bias, eps=self.eps)
