"""Rotary position embedding: Su et al. 2021, arXiv:2104.09864. Used by Llama, Qwen3, gpt-oss, GPT-J, GPT-NeoX.

Queries and keys are turned in planes by position * frequency. Two pairings are in use: feature i with i + n/2
(halves: Llama, Qwen3, gpt-oss) and neighbours (interleaved: GPT-J, Cohere); a checkpoint fits only its own. Angles
are float32, and cosine and sine are cast to the activations' dtype before they multiply, as the published models do.
Context extensions are in ``rope_scaling``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from blockzoo.blocks import AttentionPositionConfig, Dims, PositionForm
from blockzoo.kernels import Example, Op, Slot
from blockzoo.step import Step
from blockzoo_blocks.positions.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    NTKScaling,
    RopeScaling,
    YarnScaling,
    attention_factor,
    frequencies,
)


class RopeConfig(AttentionPositionConfig):
    """Rotary positions: linear, NTK, YaRN, Llama 3 and LongRoPE scaling.

    YAML: ``position: {type: rope, theta: 150000, scaling: {type: yarn, factor: 32, ...}}``.
    """

    recordable: ClassVar[bool] = True
    form: ClassVar[PositionForm] = "rotating"

    theta: PositiveFloat = Field(10000.0, description="base of the frequencies: theta^(-2i / rotated features)")
    scaling: RopeScaling | None = Field(None, description="how the context was extended after training")
    fraction: float = Field(
        1.0, gt=0, le=1, description="share of each head's features that is rotated, the first ones"
    )
    interleaved: bool = Field(False, description="rotate neighbouring features instead of halves")

    @classmethod
    def samples(cls) -> list[RopeConfig]:
        yarn = YarnScaling(factor=4.0, original_context_length=64, truncate=False)
        llama = Llama3Scaling(factor=4.0, original_context_length=16)
        lists = {"short_factor": (1.0, 1.1, 1.2, 1.5), "long_factor": (1.0, 2.0, 4.0, 7.5)}  # for heads of 8
        longrope = LongRopeScaling(factor=4.0, original_context_length=16, **lists)
        return [
            cls(),
            cls(theta=100.0, fraction=0.5, interleaved=True),
            cls(scaling=yarn),
            cls(scaling=llama),
            cls(scaling=LinearScaling(factor=2.0), interleaved=True),
            cls(scaling=NTKScaling(factor=2.0)),
            cls(scaling=longrope),
            cls(scaling=longrope.model_copy(update={"which": "short", "attention_factor": 1.5})),
        ]

    def rotated(self, head_dim: int) -> int:
        """How many features of a head are rotated."""
        return int(head_dim * self.fraction)

    def refuses(self, head_dim: int) -> str | None:
        rotated = self.rotated(head_dim)
        if rotated % 2 or rotated == 0:
            return f"rope rotates pairs, found {rotated} features: head_dim {head_dim} times fraction {self.fraction:g}"
        refusal = None if self.scaling is None else self.scaling.refuses(rotated)
        if refusal is None and not self._turns(rotated):
            return f"theta {self.theta:g} and its scaling give frequencies that are no numbers"
        return refusal

    def _turns(self, rotated: int) -> bool:
        """Whether every frequency is a number, whichever list of factors will count."""
        tried = [self.scaling] if self.scaling is None else self.scaling.outcomes()
        try:
            with torch.device("cpu"):
                found = [frequencies(self.theta, rotated, scaling, torch.device("cpu")) for scaling in tried]
        except (ArithmeticError, ValueError):
            return False
        return all(bool(one.isfinite().all()) for one in found)

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.scaling is not None:
            yield from (("scaling." + name, message) for name, message in self.scaling.problems())

    def explicit(self, dims: Dims) -> RopeConfig:
        if self.scaling is None:
            return self
        return self.model_copy(update={"scaling": self.scaling.explicit(dims.context_length)})

    def build(self, head_dim: int, n_heads: int) -> Rope:
        return Rope(self, self.rotated(head_dim))


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (i, i + n/2) of the first n = 2 * cos.shape[-1] features; the rest passes."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (2i, 2i + 1) of the first n = 2 * cos.shape[-1] features; the rest passes."""
    n = 2 * cos.shape[-1]
    even, odd = x[..., 0:n:2], x[..., 1:n:2]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., n:]], dim=-1)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """x (B, H, T, Dh) with its first 2 * cos.shape[-1] features turned by cos, sin (B, 1, T, n / 2), of x's dtype."""
    return (rotate_interleaved if interleaved else rotate_halves)(x, cos, sin)


def examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """One token and several, all features and some, both pairings; a pair alone."""
    generator = torch.Generator().manual_seed(0)
    for interleaved in (False, True):
        for shape, n in (((1, 4, 1, 64), 64), ((2, 3, 5, 20), 20), ((2, 1, 3, 40), 18), ((1, 2, 2, 2), 2)):
            x = torch.randn(shape, generator=generator).to(device, dtype)
            angles = torch.randn(shape[0], 1, shape[2], n // 2, generator=generator).to(device)
            name = f"{n} of {shape}, {'neighbours' if interleaved else 'halves'}"
            args = (x, angles.cos().to(dtype), angles.sin().to(dtype))
            yield Example(name, args, {"interleaved": interleaved}, static={"interleaved": interleaved})


ROTARY = Op(
    "rotary",
    rotary,
    examples,
    {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    static=frozenset({"interleaved"}),
)


class Rope(nn.Module):
    """q (B, H, T, Dh), k (B, Hk, T, Dh) -> the same, turned by ``step.positions``; dtypes kept.

    Holds no tensor: the table is made once a forward and shared by all layers of equal config and width.
    """

    def __init__(self, config: RopeConfig, rotated: int) -> None:
        super().__init__()
        self.recipe = config
        self.rotated = rotated
        self.key = (
            f"rope {config!r} over {rotated}"  # equal for equal configs; a config's own hash breaks torch.compile
        )
        self.turn = Slot(ROTARY, interleaved=config.interleaved)

    def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        cos, sin = step.table(
            (self.key, q.dtype), lambda: rotation_table(self.recipe, self.rotated, step.positions, q.dtype)
        )
        turn, interleaved = self.turn[step.phase], self.recipe.interleaved
        return turn(q, cos, sin, interleaved=interleaved), turn(k, cos, sin, interleaved=interleaved)

    def bias(self, positions: Tensor, key_positions: Tensor) -> None:
        return None

    def extra_repr(self) -> str:
        return f"{self.rotated}, {self.recipe}"


def rotation_table(config: RopeConfig, rotated: int, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (B, 1, T, rotated / 2) in ``dtype``; angles in float32, or float64 where the activations are."""
    inverse = frequencies(config.theta, rotated, config.scaling, positions.device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    angles = positions[:, None, :, None].to(wide) * inverse.to(wide)
    factor = attention_factor(config.scaling)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)
