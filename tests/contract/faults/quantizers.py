"""Quantizers with one fault each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig, StateTensor
from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_blocks.quantizers.mxfp4 import MXFP4Config


class Quantizer(Int8Config):
    """The control: int8 in groups, without a fault."""

    caught_by: ClassVar[str] = ""

    @classmethod
    def samples(cls) -> list[Any]:
        return [cls()]


class WideGroups(Quantizer):
    """Without a fault: what packs in groups of 64 gets models as wide as that."""

    group_size: int = Field(64, description="weights that share a scale")

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        return f"packs groups of 64 inputs, found {shape[-1]}" if shape[-1] % 64 else None


class ScaleOfARow(QuantizerConfig):
    """Without a fault: float8 e4m3 with a float32 scale for each row, which no number of bits for all shapes counts."""

    caught_by: ClassVar[str] = ""

    @property
    def weight_bits(self) -> float:
        return 8.0

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        return {
            "codes": StateTensor(shape, torch.float8_e4m3fn),
            "scales": StateTensor((*shape[:-1], 1), torch.float32),
        }

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        wide = weight.detach().float()
        if not (wide.abs() <= 448 * 2.0**119).all():  # no NaN either
            raise ValueError("float8 with scales of powers of two can't hold NaN, infinity, or more than 3e38")
        _, exponents = torch.frexp(wide.abs().amax(dim=-1, keepdim=True) / 448 * (1 - 2**-20))
        scales = torch.ldexp(torch.ones_like(exponents).float(), exponents.clamp(min=-100))
        return {"codes": (wide / scales).to(torch.float8_e4m3fn), "scales": scales}

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return (tensors["codes"].float() * tensors["scales"]).to(dtype)

    def error_bound(self, weight: Tensor) -> Tensor | None:
        return weight.abs() / 16 + self.pack(weight)["scales"] * 2.0**-10


class PaddedRows(Quantizer):
    """Without a fault: a row's codes fill whole units of ten bytes."""

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        padded = (*shape[:-1], -(-shape[-1] // 10) * 10)
        return {**super().tensors(shape), "codes": StateTensor(padded, torch.int8)}

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        return {**packed, "codes": F.pad(packed["codes"], (0, -weight.shape[-1] % 10))}

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        width = tensors["scales"].shape[-1] * self.group_size
        return super().unpack({**tensors, "codes": tensors["codes"][..., :width]}, dtype)


class RowScalesCounted(ScaleOfARow):
    """The bits of one width for all."""

    caught_by: ClassVar[str] = "packed_size"

    @property
    def weight_bits(self) -> float:
        return 8.5


class CostlyScales(Quantizer):
    """Without a fault: float32 scales take bits that make no weight more precise."""

    group_size: int = Field(16, description="weights that share a scale")

    @property
    def weight_bits(self) -> float:
        return 8 + 32 / self.group_size

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        tensors = super().tensors(shape)
        return {**tensors, "scales": replace(tensors["scales"], dtype=torch.float32)}

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        groups = weight.detach().float().unflatten(-1, (-1, self.group_size))
        scales = groups.abs().amax(dim=-1) / 7
        codes = (groups / scales[..., None]).round().to(torch.int8)
        return {"codes": codes.flatten(-2), "scales": scales}

    def error_bound(self, weight: Tensor) -> Tensor | None:
        return super().error_bound(weight) * 127 / 7


class CostlyScalesUnbounded(CostlyScales):
    """The same fails where it promises no bound."""

    caught_by: ClassVar[str] = "precision"

    def error_bound(self, weight: Tensor) -> None:
        return None


class NarrowScales(CostlyScales):
    """Scales of float16: below 2^-14 they are rounded so far that the greatest code is another one."""

    caught_by: ClassVar[str] = "exact_on_its_own_values"

    @property
    def weight_bits(self) -> float:
        return 8 + 16 / self.group_size

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        tensors = super().tensors(shape)
        return {**tensors, "scales": replace(tensors["scales"], dtype=torch.float16)}

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        scales = super().pack(weight)["scales"].to(torch.float16)
        steps = scales.float().repeat_interleave(self.group_size, dim=-1)
        return {"codes": (weight / steps).round().clamp(-7, 7).to(torch.int8), "scales": scales}


class ScalesOfScales(QuantizerConfig):
    """Scales of groups in eight bits, relative to the row's: a small group's greatest code is another one the next
    time.
    """

    caught_by: ClassVar[str] = "exact_on_its_own_values"

    @property
    def weight_bits(self) -> float:
        return 8 + 8 / 16

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        return {
            "codes": StateTensor(shape, torch.int8),
            "scales": StateTensor((*shape[:-1], shape[-1] // 16), torch.uint8),
            "rows": StateTensor((*shape[:-1], 1), torch.float32),
        }

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        groups = weight.detach().float().unflatten(-1, (-1, 16))
        greatest = groups.abs().amax(dim=-1)
        rows = greatest.amax(dim=-1, keepdim=True) / 255
        scales = (greatest / rows).ceil().clamp(1, 255)
        codes = (groups / (scales * rows)[..., None] * 7).round().to(torch.int8)
        return {"codes": codes.flatten(-2), "scales": scales.to(torch.uint8), "rows": rows}

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        steps = (tensors["scales"].float() * tensors["rows"] / 7).repeat_interleave(16, dim=-1)
        return (tensors["codes"].float() * steps).to(dtype)


class RefusalIsABool(Quantizer):
    caught_by: ClassVar[str] = "refusals"

    def refuses(self, shape: tuple[int, ...]) -> Any:
        return shape[-1] % 32 != 0


class OffByOneCode(Quantizer):
    caught_by: ClassVar[str] = "exact_on_its_own_values"

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return super().unpack({**tensors, "codes": (tensors["codes"].int() - 1).clamp(-127).to(torch.int8)}, dtype)


class CutsInsteadOfRounding(Quantizer):
    caught_by: ClassVar[str] = "error_bound"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        steps = packed["scales"].float().repeat_interleave(self.group_size, dim=-1)
        codes = torch.where(steps > 0, weight.float() / steps * (1 + 1e-6), 0).trunc().clamp(-127, 127)
        return {**packed, "codes": codes.to(torch.int8)}


class SwappedNibbles(MXFP4Config):
    caught_by: ClassVar[str] = "precision"

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        blocks = tensors["blocks"]
        return super().unpack({**tensors, "blocks": (blocks >> 4) | (blocks << 4)}, dtype)


class WrongBits(Quantizer):
    caught_by: ClassVar[str] = "packed_size"

    @property
    def weight_bits(self) -> float:
        return 8.0


class ScaleInTheWrongDtype(Quantizer):
    caught_by: ClassVar[str] = "packed_size"

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        said = super().tensors(shape)
        return {**said, "scales": StateTensor(said["scales"].shape, torch.float16)}


class OneScaleForAllRows(Quantizer):
    caught_by: ClassVar[str] = "rows_alone"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        scales = packed["scales"].max().expand_as(packed["scales"]).clone()
        steps = scales.float().repeat_interleave(self.group_size, dim=-1)
        return {"scales": scales, "codes": (weight.float() / steps).round().clamp(-127, 127).to(torch.int8)}


class OneScaleCopiedToTheGroups(Quantizer):
    """A row's greatest weight sets the scale of each of its groups; the bound goes by it too."""

    caught_by: ClassVar[str] = "groups_alone"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        scales = super().pack(weight)["scales"]
        scales = scales.amax(dim=-1, keepdim=True).expand_as(scales).clone()
        steps = scales.float().repeat_interleave(self.group_size, dim=-1)
        codes = torch.where(steps > 0, weight.float() / steps, 0).round().clamp(-127, 127).to(torch.int8)
        return {"scales": scales, "codes": codes}

    def error_bound(self, weight: Tensor) -> Tensor:
        return super().error_bound(weight).amax(dim=-1, keepdim=True).expand_as(weight)


class GroupSizeIgnored(Quantizer):
    """Packs as its default says."""

    caught_by: ClassVar[str] = "options_count"

    @classmethod
    def samples(cls) -> list[Any]:
        return [cls(), cls(group_size=16)]

    @property
    def weight_bits(self) -> float:
        return Int8Config().weight_bits

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        return Int8Config().refuses(shape)

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        return Int8Config().tensors(shape)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        return Int8Config().pack(weight)

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return Int8Config().unpack(tensors, dtype)


class ScalesOfBlocksOfRows(Quantizer):
    """Blocks of 128 rows share their scales, which are stored once."""

    caught_by: ClassVar[str] = "rows_alone"

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        *outer, rows, inputs = shape
        scales = (*outer, -(-rows // 128), inputs // self.group_size)
        return {"codes": StateTensor(shape, torch.int8), "scales": StateTensor(scales, torch.bfloat16)}

    def rows_of(self, scales: Tensor, rows: int) -> Tensor:
        return scales.repeat_interleave(128, dim=-2)[..., :rows, :]

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        scales = super().pack(weight)["scales"]
        shared = torch.stack([block.amax(dim=-2) for block in scales.split(128, dim=-2)], dim=-2)
        steps = self.rows_of(shared, weight.shape[-2]).float().repeat_interleave(self.group_size, dim=-1)
        codes = torch.where(steps > 0, weight.float() / steps, 0).round().clamp(-127, 127)
        return {"codes": codes.to(torch.int8), "scales": shared}

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        codes = tensors["codes"]
        return super().unpack({"codes": codes, "scales": self.rows_of(tensors["scales"], codes.shape[-2])}, dtype)

    def error_bound(self, weight: Tensor) -> Tensor:
        bound = super().error_bound(weight)
        return torch.cat([b.amax(-2, keepdim=True).expand_as(b) for b in bound.split(128, dim=-2)], dim=-2)


class ScalesSharedByExperts(Quantizer):
    """All experts' rows of one index have one scale, stored once."""

    caught_by: ClassVar[str] = "matrix_products"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        return packed if weight.dim() == 2 else {**packed, "scales": packed["scales"][:1]}


class RowsMoveByOne(Quantizer):
    caught_by: ClassVar[str] = "rows_alone"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        return {name: tensor.roll(1, dims=-2) for name, tensor in super().pack(weight).items()}


class DtypeIgnored(Quantizer):
    caught_by: ClassVar[str] = "unpacks_to_any_dtype"

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return super().unpack(tensors, torch.float32)


class TakesNaN(Quantizer):
    caught_by: ClassVar[str] = "extremes"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        return super().pack(weight.nan_to_num())


class DividesByZero(Quantizer):
    """0 / 0 in a group of zeros: what integer NaN becomes is the machine's choice."""

    caught_by: ClassVar[str] = "extremes"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        steps = packed["scales"].float().repeat_interleave(self.group_size, dim=-1)
        return {**packed, "codes": (weight.float() / steps).round().clamp(-127, 127).to(torch.int8)}


class ScaleOverflows(Quantizer):
    """Twice the greatest weight is infinite near float32's maximum: codes of 0 times such a scale are NaN."""

    caught_by: ClassVar[str] = "extremes"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        super().pack(weight)  # refuses NaN and infinity
        groups = weight.float().unflatten(-1, (-1, self.group_size))
        scales = (2 * groups.abs().amax(dim=-1) / 254).to(torch.bfloat16)
        steps = scales.float()[..., None]
        codes = torch.where(steps > 0, groups / steps, 0).round().clamp(-127, 127).to(torch.int8)
        return {"scales": scales, "codes": codes.flatten(-2)}


class MeanOverflows(QuantizerConfig):
    """Signs times the row's mean magnitude, whose sum in float32 is infinite for weights that are finite."""

    caught_by: ClassVar[str] = "extremes"

    @property
    def weight_bits(self) -> float:
        return 8.0

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        return {
            "codes": StateTensor(shape, torch.int8),
            "scales": StateTensor((*shape[:-1], 1), torch.float32),
        }

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        wide = weight.detach().float()
        if not (wide.abs() <= 3e38).all():  # no NaN either
            raise ValueError("signs can't hold NaN, infinity, or more than 3e38")
        return {"codes": wide.sign().to(torch.int8), "scales": self.scales(wide)}

    def scales(self, wide: Tensor) -> Tensor:
        """A row of one magnitude keeps it; zeros aren't counted."""
        size, found = wide.abs(), (wide != 0).sum(dim=-1, keepdim=True)
        mean = size.sum(dim=-1, keepdim=True) / found.clamp(min=1)
        greatest = size.amax(dim=-1, keepdim=True)
        return torch.where(((size == 0) | (size == greatest)).all(dim=-1, keepdim=True), greatest, mean)

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return (tensors["codes"].float() * tensors["scales"]).to(dtype)

    def error_bound(self, weight: Tensor) -> Tensor:
        wide = weight.detach().float()
        return (wide.abs() - self.scales(wide)).abs()


class RaisesTinyScales(Quantizer):
    """The scale that is stored is a normal number, the one that was divided by isn't."""

    caught_by: ClassVar[str] = "extremes"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        return {**packed, "scales": packed["scales"].clamp(min=torch.finfo(torch.bfloat16).tiny)}


class WrapsTinyExponents(MXFP4Config):
    """The exponent of a group near 1e-39 is stored without a clamp, and a byte wraps around."""

    caught_by: ClassVar[str] = "extremes"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight.float() * 2.0**20)
        return {**packed, "scales": packed["scales"] - 20}


class ZeroPoints(QuantizerConfig):
    """Without a fault at any edge: bytes from a group's least weight, or 0, to its greatest."""

    caught_by: ClassVar[str] = ""
    limit: ClassVar[float] = 65504 * 255 / 2

    @property
    def weight_bits(self) -> float:
        return 8 + 24 / 32

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        return f"packs groups of 32 inputs, found {shape[-1]}" if shape[-1] % 32 else None

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        groups = (*shape[:-1], shape[-1] // 32)
        return {
            "codes": StateTensor(shape, torch.uint8),
            "scales": StateTensor(groups, torch.float16),
            "zeros": StateTensor(groups, torch.uint8),
        }

    def ends(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        return groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        groups = weight.detach().float().unflatten(-1, (-1, 32))
        if not (groups.abs() <= self.limit).all():  # no NaN either
            raise ValueError("can't hold NaN, infinity, or more than float16's scales reach to")
        low, high = self.ends(groups)
        scales = ((high - low) / 255).clamp(min=2**-14).to(torch.float16)
        zeros = (-low / scales.float()).round().clamp(0, 255)
        codes = (groups / scales.float()[..., None] + zeros[..., None]).round().clamp(0, 255)
        return {"codes": codes.flatten(-2).to(torch.uint8), "scales": scales, "zeros": zeros.to(torch.uint8)}

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        codes = tensors["codes"].float().unflatten(-1, (-1, 32)) - tensors["zeros"].float()[..., None]
        return (codes * tensors["scales"].float()[..., None]).flatten(-2).to(dtype)

    def error_bound(self, weight: Tensor) -> Tensor:
        low, high = self.ends(weight.detach().float().unflatten(-1, (-1, 32)))
        steps = ((high - low) / 255).clamp(min=2**-14) * (1 + 2**-10)
        return steps.repeat_interleave(32, dim=-1)  # half of one for the zero point, half for the code


class RangeWithoutZero(ZeroPoints):
    """From the least to the greatest weight: 0 is out of range where they have one sign, and so is its code."""

    caught_by: ClassVar[str] = "error_bound"

    def ends(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        return groups.amin(dim=-1), groups.amax(dim=-1)


class LimitOfOneSign(ZeroPoints):
    """Half of the range is forgotten: the scale of a group of both signs is infinite below the limit."""

    caught_by: ClassVar[str] = "extremes"
    limit: ClassVar[float] = 65504 * 255


class ChangesTheWeight(Quantizer):
    caught_by: ClassVar[str] = "pack_takes_any_dtype"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        packed = super().pack(weight)
        weight.copy_(self.unpack(packed, weight.dtype))
        return packed


class RefusesNothing(Quantizer):
    caught_by: ClassVar[str] = "refusals"

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        return None


class ExpertsInTheWrongOrder(Quantizer):
    caught_by: ClassVar[str] = "matrix_products"

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        unpacked = super().unpack(tensors, dtype)
        return unpacked.flip(0) if unpacked.dim() == 3 else unpacked


class PacksNoExperts(Quantizer):
    """Matrices alone: a stack of them is refused at the pack, not by ``refuses``."""

    caught_by: ClassVar[str] = "in_gpt_oss"

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        rows, _ = weight.shape
        packed = super().pack(weight)
        return {name: tensor[:rows] for name, tensor in packed.items()}
