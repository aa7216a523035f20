"""No position encoding: causality alone tells order. Kazemnejad et al. 2023, arXiv:2305.19466; every fourth layer of
SmolLM3.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from blockzoo.blocks import AttentionPositionConfig, PositionForm
from blockzoo.step import Step


class NoPositionConfig(AttentionPositionConfig):
    """No position encoding.

    YAML: ``position: none``.
    """

    recordable: ClassVar[bool] = True
    form: ClassVar[PositionForm] = "none"

    def build(self, head_dim: int, n_heads: int) -> NoPosition:
        return NoPosition()


class NoPosition(nn.Module):
    """Queries and keys as they are."""

    def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        return q, k

    def bias(self, positions: Tensor, key_positions: Tensor) -> None:
        return None
