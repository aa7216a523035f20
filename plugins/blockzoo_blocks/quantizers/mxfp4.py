"""MXFP4: the OCP Microscaling format of 4-bit floats (spec v1.0, 2023; arXiv:2310.10537). gpt-oss stores its experts
so.

32 neighbouring weights along the input axis share a scale, a power of two kept as one byte with bias 127; each weight
is an E2M1 float {0, .5, 1, 1.5, 2, 3, 4, 6} with a sign, two to a byte, low nibble first: 4.25 bits a weight. Packing
follows the specification's recipe: the scale is 2^(floor(log2(largest)) - 2), values round to nearest even and
saturate at 6. -0 keeps its sign. Scale byte 255 is NaN by the standard, though the published de-quantizers compute
2^128: checkpoints with it are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2, sqrt

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig, StateTensor

GROUP = 32
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# halfway points; a tie goes to the code with an even last bit, so every second one belongs to the code above it
MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
BIAS = 127


class MXFP4Config(QuantizerConfig):
    """4-bit floats, one power of two a group of 32.

    YAML: ``quantizer: mxfp4``. Packed as ``blocks`` (..., out, in / 32, 16) uint8 and ``scales`` (..., out, in /
    32) uint8.
    """

    @property
    def weight_bits(self) -> float:
        return 4 + 8 / GROUP

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        return f"mxfp4 packs groups of {GROUP} inputs, found {shape[-1]}" if shape[-1] % GROUP else None

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        groups = (*shape[:-1], shape[-1] // GROUP)
        return {
            "blocks": StateTensor((*groups, GROUP // 2), torch.uint8),
            "scales": StateTensor(groups, torch.uint8),
        }

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        groups = weight.detach().float().unflatten(-1, (-1, GROUP))
        if not groups.isfinite().all():
            raise ValueError("mxfp4 can't hold NaN or infinity")
        largest = groups.abs().amax(dim=-1)
        exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 1 - 2, 0).clamp(-BIAS, BIAS)
        scaled = torch.ldexp(groups, -exponent[..., None])
        magnitude = scaled.abs()
        code = torch.bucketize(magnitude, torch.tensor(MIDPOINTS, device=weight.device), right=False)
        # bucketize puts a tie into the lower code; where that one is odd, even is above
        midpoints = torch.tensor((*MIDPOINTS, float("inf")), device=weight.device)
        code = code + ((magnitude == midpoints[code]) & (code % 2 == 1))
        code = (code | (scaled.signbit().long() << 3)).to(torch.uint8)
        return {"blocks": code[..., 0::2] | (code[..., 1::2] << 4), "scales": (exponent + BIAS).to(torch.uint8)}

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        blocks, scales = tensors["blocks"], tensors["scales"]
        scale = torch.ldexp(torch.ones(scales.shape, device=scales.device), scales.int() - BIAS)
        pairs = _byte_table(blocks.device)[blocks.int()]  # (..., in / 32, 16, 2): what each byte's two codes stand for
        return (pairs.flatten(-2) * scale[..., None]).flatten(-2).to(dtype)

    def draw(self, shape: tuple[int, ...], std: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Every code alike often, and the one scale that brings their root mean square nearest to ``std``: no scale
        near its ends, where products are denormal and slow.
        """
        packed = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in self.tensors(shape).items()}
        nbytes = packed["blocks"].numel()
        words = torch.empty(-(-nbytes // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        packed["blocks"] = words.view(torch.uint8)[:nbytes].view(packed["blocks"].shape)
        rms = sqrt(sum(m * m for m in MAGNITUDES) / len(MAGNITUDES))
        packed["scales"].fill_(min(max(round(log2(std / rms)) + BIAS, 0), 2 * BIAS))
        return packed

    def error_bound(self, weight: Tensor) -> Tensor:
        """Half the distance between the codes around a weight; above the greatest code, the distance to it."""
        groups = weight.detach().float().unflatten(-1, (-1, GROUP))
        largest = groups.abs().amax(dim=-1, keepdim=True)
        unit = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1 - 2)
        scaled = groups.abs() / unit
        half_gap = torch.tensor((0.25, 0.5, 1.0))[torch.bucketize(scaled, torch.tensor((2.0, 4.0)))]
        return (torch.where(scaled > 6, scaled - 6, half_gap) * unit).flatten(-2)

    def invalid(self, part: str, tensor: Tensor) -> str | None:
        if part == "scales" and bool((tensor == 255).any()):
            return "has the scale byte 255, which the standard calls NaN"
        return None


def _byte_table(device: torch.device) -> Tensor:
    """(256, 2): byte -> values of its low and its high nibble."""
    values = torch.tensor([*MAGNITUDES, *(-m for m in MAGNITUDES)], device=device)
    byte = torch.arange(256, device=device)
    return torch.stack([values[byte & 15], values[byte >> 4]], dim=-1)
