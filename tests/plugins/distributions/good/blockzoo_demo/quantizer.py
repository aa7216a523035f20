"""Groupwise symmetric four-bit weights, two to a byte, low nibble first."""

import torch
from pydantic import Field

from blockzoo.blocks import QuantizerConfig, StateTensor


class NibbleConfig(QuantizerConfig):
    """YAML: ``quantizer: {type: nibble, group_size: 16}``."""

    group_size: int = Field(16, ge=2, multiple_of=2, description="neighbouring inputs that share a bfloat16 scale")

    @property
    def weight_bits(self):
        return 4 + 16 / self.group_size

    def refuses(self, shape):
        return (
            f"nibble needs a multiple of {self.group_size} inputs, found {shape[-1]}"
            if shape[-1] % self.group_size
            else None
        )

    def tensors(self, shape):
        return {
            "codes": StateTensor((*shape[:-1], shape[-1] // 2), torch.uint8),
            "scales": StateTensor((*shape[:-1], shape[-1] // self.group_size), torch.bfloat16),
        }

    def pack(self, weight):
        if not weight.isfinite().all():
            raise ValueError("nibble can't hold NaN or infinity")
        groups = weight.detach().float().unflatten(-1, (-1, self.group_size))
        scales = (groups.abs().amax(-1) / 7).to(torch.bfloat16)
        steps = scales.float()[..., None]
        codes = torch.where(steps > 0, groups / steps, 0).round().clamp(-7, 7).add(8).to(torch.uint8).flatten(-2)
        return {"codes": codes[..., 0::2] | codes[..., 1::2] << 4, "scales": scales}

    def unpack(self, tensors, dtype):
        codes = torch.stack([tensors["codes"] & 15, tensors["codes"] >> 4], dim=-1).flatten(-2).float() - 8
        return (codes.unflatten(-1, (-1, self.group_size)) * tensors["scales"].float()[..., None]).flatten(-2).to(dtype)
