"""Sandwich residual: a norm before and after each branch. Gemma 2, arXiv:2408.00118; Gemma 3; Ding et al. 2021,
arXiv:2105.13290.

``x = x + post_norm(mixer(norm(x)))``, the ffn alike. With ``pre: false`` only the outputs are normed (OLMo 2,
arXiv:2501.00656).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from blockzoo.blocks import Aux, Dims, ResidualConfig
from blockzoo.cache import State
from blockzoo.step import Step


class SandwichConfig(ResidualConfig):
    """Norms before and after each branch, or after only.

    YAML: ``residual: sandwich``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "sandwich norms"

    pre: bool = Field(True, description="norm the inputs of mixer and ffn, too")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on each branch before it is added, in training")
    multiplier: PositiveFloat = Field(1.0, description="factor on each branch before it is added")

    @classmethod
    def samples(cls) -> list[SandwichConfig]:
        return [cls(), cls(pre=False, multiplier=0.5, dropout=0.2)]

    def scaled(self, factor: float) -> Self:
        return self.model_copy(update={"multiplier": self.multiplier * factor})

    def norms(self, has_mixer: bool, has_ffn: bool) -> tuple[str, ...]:
        before = ("mixer_norm",) * has_mixer + ("ffn_norm",) * has_ffn
        after = ("mixer_post_norm",) * has_mixer + ("ffn_post_norm",) * has_ffn
        return before + after if self.pre else after

    def build(
        self, dims: Dims, mixer: nn.Module | None, ffn: nn.Module | None, norm: Callable[[], nn.Module]
    ) -> Sandwich:
        return Sandwich(mixer, ffn, norm, pre=self.pre, dropout=self.dropout, multiplier=self.multiplier)


class Sandwich(nn.Module):
    """(x (B, T, D), step, state) -> (x (B, T, D), aux)."""

    def __init__(
        self,
        mixer: nn.Module | None,
        ffn: nn.Module | None,
        norm: Callable[[], nn.Module],
        pre: bool = True,
        dropout: float = 0.0,
        multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn
        if mixer is not None:
            self.mixer_norm = norm() if pre else nn.Identity()
            self.mixer_post_norm = norm()
        if ffn is not None:
            self.ffn_norm = norm() if pre else nn.Identity()
            self.ffn_post_norm = norm()
        self.dropout = nn.Dropout(dropout)
        self.multiplier = multiplier

    def forward(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Tensor, Aux]:
        aux: Aux = {}
        if self.mixer is not None:
            branch = self.mixer_post_norm(self.mixer(self.mixer_norm(x), step, state))
            x = x + self.dropout(branch) * self.multiplier
        if self.ffn is not None:
            y, aux = self.ffn(self.ffn_norm(x))
            x = x + self.dropout(self.ffn_post_norm(y)) * self.multiplier
        return x, aux
