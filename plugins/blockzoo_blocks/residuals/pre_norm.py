"""Pre-norm residual: Xiong et al. 2020, arXiv:2002.04745. Used by GPT-2, Llama, Qwen3, gpt-oss.

``x = x + mixer(norm(x))``, then ``x = x + ffn(norm(x))``. ``multiplier`` scales each branch (CompleteP,
arXiv:2505.01618, uses 1 / depth multiple; Granite a constant).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from blockzoo.blocks import Aux, Dims, ResidualConfig
from blockzoo.cache import State
from blockzoo.step import Step


class PreNormConfig(ResidualConfig):
    """A norm before each branch.

    YAML: ``residual: {type: pre_norm, dropout: 0.1}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "pre-norm"

    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on each branch before it is added, in training")
    multiplier: PositiveFloat = Field(1.0, description="factor on each branch before it is added")

    @classmethod
    def samples(cls) -> list[PreNormConfig]:
        return [cls(), cls(multiplier=0.5, dropout=0.2)]

    def scaled(self, factor: float) -> Self:
        return self.model_copy(update={"multiplier": self.multiplier * factor})

    def norms(self, has_mixer: bool, has_ffn: bool) -> tuple[str, ...]:
        return ("mixer_norm",) * has_mixer + ("ffn_norm",) * has_ffn

    def build(
        self, dims: Dims, mixer: nn.Module | None, ffn: nn.Module | None, norm: Callable[[], nn.Module]
    ) -> PreNorm:
        return PreNorm(mixer, ffn, norm, dropout=self.dropout, multiplier=self.multiplier)


class PreNorm(nn.Module):
    """(x (B, T, D), step, state) -> (x (B, T, D), aux)."""

    def __init__(
        self,
        mixer: nn.Module | None,
        ffn: nn.Module | None,
        norm: Callable[[], nn.Module],
        dropout: float = 0.0,
        multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn
        if mixer is not None:
            self.mixer_norm = norm()
        if ffn is not None:
            self.ffn_norm = norm()
        self.dropout = nn.Dropout(dropout)
        self.multiplier = multiplier

    def forward(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Tensor, Aux]:
        aux: Aux = {}
        if self.mixer is not None:
            x = self.join(x, self.mixer(self.mixer_norm(x), step, state))
        if self.ffn is not None:
            y, aux = self.ffn(self.ffn_norm(x))
            x = self.join(x, y)
        return x, aux

    def join(self, x: Tensor, branch: Tensor) -> Tensor:
        branch = self.dropout(branch)
        return x + branch if self.multiplier == 1.0 else x + branch * self.multiplier
