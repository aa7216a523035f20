"""How rotary frequencies are stretched to contexts longer than trained: linear, NTK, YaRN, Llama 3, LongRoPE.

Linear: Chen et al. 2023, arXiv:2306.15595. NTK-aware: bloc97 2023, theta grows by factor^(n / (n - 2)). YaRN: Peng et
al. 2023, arXiv:2309.00071; gpt-oss leaves its ramp bounds untruncated. Llama 3: Grattafiori et al. 2024,
arXiv:2407.21783. LongRoPE: Ding et al. 2024, arXiv:2402.13753 (Phi-3, Phi-4-mini); transformers looks at each pass's
length to choose between its two lists, which would turn keys in a cache wrongly. Here the model's context decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, log, pi, sqrt
from typing import Annotated, Literal, Self

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

    def refuses(self, rotated: int) -> str | None:
        """Why this many features can't be turned by it, or None."""
        return None

    def explicit(self, context_length: int) -> Self:
        """The same with what follows from the model's context written out."""
        return self

    def outcomes(self) -> Sequence[Self]:
        """All that ``explicit`` may give, by the model's context."""
        return [self]


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


Divisors = Annotated[tuple[PositiveFloat, ...], Field(min_length=1, max_length=2**15)]


class LongRopeScaling(Scaling):
    """Each frequency divided by a number that was searched for: one list within the original context, one beyond."""

    type: Literal["longrope"] = Field("longrope", description="each frequency divided by a number of its own")
    original_context_length: int = Field(description="the context before the extension", ge=2, le=2**40)
    short_factor: Divisors = Field(description="what frequencies are divided by in models of the original context")
    long_factor: Divisors = Field(description="what they are divided by in models of a longer one")
    attention_factor: PositiveFloat | None = Field(
        None, description="factor on cos and sin; default sqrt(1 + ln(factor) / ln(original_context_length))"
    )
    which: Literal["short", "long"] | None = Field(
        None, description="the list that counts; default: long where the model's context_length exceeds the original"
    )

    def refuses(self, rotated: int) -> str | None:
        for name, count in (("short_factor", len(self.short_factor)), ("long_factor", len(self.long_factor))):
            if 2 * count != rotated:
                return f"scaling.{name} has {count} numbers, {rotated} rotated features want {rotated // 2}"
        return None

    def explicit(self, context_length: int) -> LongRopeScaling:
        beyond = context_length > self.original_context_length
        which = self.which or ("long" if beyond else "short")
        return self.model_copy(update={"which": which, "attention_factor": attention_factor(self)})

    def outcomes(self) -> Sequence[LongRopeScaling]:
        return [self.explicit(context_length) for context_length in (0, self.original_context_length + 1)]


RopeScaling = Annotated[
    LinearScaling | NTKScaling | YarnScaling | Llama3Scaling | LongRopeScaling, Field(discriminator="type")
]


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
    if isinstance(scaling, LongRopeScaling):
        divisors = scaling.short_factor if scaling.which == "short" else scaling.long_factor
        return 1.0 / (torch.tensor(divisors, dtype=torch.float32, device=device) * powers)
    return plain


def attention_factor(scaling: Scaling | None) -> float:
    """What cos and sin are multiplied by."""
    if not isinstance(scaling, YarnScaling | LongRopeScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if isinstance(scaling, LongRopeScaling):
        return sqrt(1 + log(scaling.factor) / log(scaling.original_context_length))
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
