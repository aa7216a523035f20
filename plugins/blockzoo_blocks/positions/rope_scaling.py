"""How rotary frequencies are stretched to contexts longer than trained: linear, NTK, YaRN, Llama 3.

Linear: Chen et al. 2023, arXiv:2306.15595. NTK-aware: bloc97 2023, theta grows by factor^(n / (n - 2)). YaRN: Peng et
al. 2023, arXiv:2309.00071; gpt-oss leaves its ramp bounds untruncated. Llama 3: Grattafiori et al. 2024,
arXiv:2407.21783.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log, pi
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor


class Scaling(BaseModel):
    """What all scalings share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    factor: float = Field(ge=1, description="how many times longer the context became")

    def problems(self) -> Iterator[tuple[str, str]]:
        """(field, message) pairs for what is wrong between fields."""
        yield from ()


class LinearScaling(Scaling):
    """Positions divided by the factor."""

    type: Literal["linear"] = Field("linear", description="positions divided by the factor")


class NTKScaling(Scaling):
    """A greater theta: high frequencies stay, low ones stretch."""

    type: Literal["ntk"] = Field("ntk", description="theta times factor^(n / (n - 2)) for n rotated features")


class YarnScaling(Scaling):
    """Low frequencies interpolated, high ones kept, a ramp between; scores sharpened through cos and sin."""

    type: Literal["yarn"] = Field("yarn", description="interpolate low frequencies, keep high ones")
    original_context_length: PositiveInt = Field(description="the context before the extension")
    beta_fast: PositiveFloat = Field(
        32.0, description="turns within the original context from which on a frequency is kept"
    )
    beta_slow: PositiveFloat = Field(1.0, description="turns up to which a frequency is divided by the factor")
    truncate: bool = Field(True, description="round the ramp's bounds outwards to integers (gpt-oss: false)")
    attention_factor: PositiveFloat | None = Field(
        None, description="factor on cos and sin; default 0.1 ln(factor) + 1"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.beta_slow >= self.beta_fast:
            yield "beta_slow", f"must be less than beta_fast ({self.beta_fast:g}), found {self.beta_slow:g}"


class Llama3Scaling(Scaling):
    """Wavelengths longer than a bound divided by the factor, shorter than another kept, a blend between."""

    type: Literal["llama3"] = Field("llama3", description="by wavelength: keep short ones, stretch long ones")
    original_context_length: PositiveInt = Field(description="the context before the extension")
    low_freq_factor: PositiveFloat = Field(
        1.0, description="wavelengths above original_context_length / this are stretched"
    )
    high_freq_factor: PositiveFloat = Field(
        4.0, description="wavelengths below original_context_length / this are kept"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.low_freq_factor >= self.high_freq_factor:
            yield (
                "low_freq_factor",
                f"must be less than high_freq_factor ({self.high_freq_factor:g}), found {self.low_freq_factor:g}",
            )


RopeScaling = Annotated[LinearScaling | NTKScaling | YarnScaling | Llama3Scaling, Field(discriminator="type")]


def frequencies(theta: float, n: int, scaling: Scaling | None, device: torch.device) -> Tensor:
    """The n / 2 angular frequencies in radians a position, float32, in the published models' order of operations."""
    if isinstance(scaling, NTKScaling) and n > 2:
        theta = theta * scaling.factor ** (n / (n - 2))
    powers = theta ** (torch.arange(0, n, 2, dtype=torch.int64).to(device, torch.float32) / n)
    plain = 1.0 / powers
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor
    if isinstance(scaling, YarnScaling):
        keep = 1 - _yarn_ramp(theta, n, scaling, device)
        return 1.0 / (scaling.factor * powers) * (1 - keep) + plain * keep
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling)
    return plain


def attention_factor(scaling: Scaling | None) -> float:
    """What cos and sin are multiplied by."""
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0


def _yarn_ramp(theta: float, n: int, scaling: YarnScaling, device: torch.device) -> Tensor:
    """0 where a frequency is kept, 1 where it is divided by the factor."""

    def index_of(turns: float) -> float:
        return n * log(scaling.original_context_length / (turns * 2 * pi)) / (2 * log(theta))

    low, high = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, n - 1)
    if low == high:
        high += 0.001  # no ramp at all would divide by zero
    index = torch.arange(n // 2, dtype=torch.float32, device=device)
    return ((index - low) / (high - low)).clamp(0, 1)


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelength = 2 * pi / plain
    longest = scaling.original_context_length / scaling.low_freq_factor
    shortest = scaling.original_context_length / scaling.high_freq_factor
    smooth = (scaling.original_context_length / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    stretched = plain / scaling.factor
    blended = (1 - smooth) * stretched + smooth * plain
    return torch.where(wavelength > longest, stretched, torch.where(wavelength < shortest, plain, blended))
