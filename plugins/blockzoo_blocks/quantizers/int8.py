"""Groupwise symmetric int8: neighbouring weights along the input axis share a bfloat16 scale (as in llama.cpp's Q8_0,
whose scale is a float16). With groups of 32 it takes 8.5 bits a weight.

The scale is the group's largest magnitude / 127, rounded to bfloat16 before the weights are divided by it: no weight
is off by more than half a step of the rounded scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from blockzoo.blocks import QuantizerConfig, StateTensor


class Int8Config(QuantizerConfig):
    """8-bit integers, one scale a group.

    YAML: ``quantizer: {type: int8, group_size: 32}``. Packed as ``codes`` (..., out, in) and ``scales`` (..., out,
    in / group).
    """

    group_size: int = Field(32, ge=1, le=2**16, description="weights along the input axis that share a scale")

    @classmethod
    def samples(cls) -> list[Int8Config]:
        return [cls(), cls(group_size=16)]

    @property
    def weight_bits(self) -> float:
        return 8 + 16 / self.group_size

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        if shape[-1] % self.group_size:
            return (
                f"int8 packs groups of {self.group_size} inputs, found {shape[-1]}; choose a group_size that divides it"
            )
        return None

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        return {
            "codes": StateTensor(shape, torch.int8),
            "scales": StateTensor((*shape[:-1], shape[-1] // self.group_size), torch.bfloat16),
        }

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        groups = weight.detach().float().unflatten(-1, (-1, self.group_size))
        if not groups.isfinite().all():
            raise ValueError("int8 can't hold NaN or infinity")
        scales = (groups.abs().amax(dim=-1) / 127).to(torch.bfloat16)
        steps = scales.float()[..., None]
        codes = torch.where(steps > 0, groups / steps, 0).round().clamp(-127, 127).to(torch.int8)
        return {"codes": codes.flatten(-2), "scales": scales}

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        codes = tensors["codes"].float().unflatten(-1, (-1, self.group_size))
        return (codes * tensors["scales"].float()[..., None]).flatten(-2).to(dtype)

    def error_bound(self, weight: Tensor) -> Tensor:
        """Half a step of a scale that bfloat16 has rounded by up to 2^-9 of itself."""
        step = weight.detach().float().unflatten(-1, (-1, self.group_size)).abs().amax(dim=-1, keepdim=True) / 127
        return (step * (0.5 + 2**-9)).expand(*step.shape[:-1], self.group_size).flatten(-2)
