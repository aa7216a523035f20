"""Parallel residual: mixer and ffn read the same input. GPT-J (Wang & Komatsuzaki 2021), PaLM (arXiv:2204.02311),
Cohere; with two norms GPT-NeoX (arXiv:2204.06745) and Pythia.

``x = x + mixer(norm(x)) + ffn(norm(x))``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from blockzoo.blocks import Aux, Dims, ResidualConfig
from blockzoo.cache import State
from blockzoo.step import Step


class ParallelConfig(ResidualConfig):
    """Mixer and ffn read the same input.

    YAML: ``residual: {type: parallel, shared_norm: false}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "parallel residual"
    parallel: ClassVar[bool] = True

    shared_norm: bool = Field(True, description="one norm for both branches (GPT-J) or one each (GPT-NeoX)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on each branch before it is added, in training")
    multiplier: PositiveFloat = Field(1.0, description="factor on the sum of the branches before it is added")

    @classmethod
    def samples(cls) -> list[ParallelConfig]:
        return [cls(), cls(shared_norm=False, multiplier=0.5, dropout=0.2)]

    def scaled(self, factor: float) -> Self:
        return self.model_copy(update={"multiplier": self.multiplier * factor})

    def norms(self, has_mixer: bool, has_ffn: bool) -> tuple[str, ...]:
        if self.shared_norm:
            return ("norm",)
        return ("mixer_norm",) * has_mixer + ("ffn_norm",) * has_ffn

    def build(
        self, dims: Dims, mixer: nn.Module | None, ffn: nn.Module | None, norm: Callable[[], nn.Module]
    ) -> Parallel:
        return Parallel(
            mixer, ffn, norm, shared_norm=self.shared_norm, dropout=self.dropout, multiplier=self.multiplier
        )


class Parallel(nn.Module):
    """(x (B, T, D), step, state) -> (x (B, T, D), aux)."""

    def __init__(
        self,
        mixer: nn.Module | None,
        ffn: nn.Module | None,
        norm: Callable[[], nn.Module],
        shared_norm: bool = True,
        dropout: float = 0.0,
        multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn
        self.norm = norm() if shared_norm else nn.Identity()
        self.mixer_norm = norm() if mixer is not None and not shared_norm else nn.Identity()
        self.ffn_norm = norm() if ffn is not None and not shared_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.multiplier = multiplier

    def forward(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Tensor, Aux]:
        aux: Aux = {}
        normed = self.norm(x)
        branches = x.new_zeros(())
        if self.mixer is not None:
            branches = branches + self.dropout(self.mixer(self.mixer_norm(normed), step, state))
        if self.ffn is not None:
            y, aux = self.ffn(self.ffn_norm(normed))
            branches = branches + self.dropout(y)
        return x + branches * self.multiplier, aux
