"""The embedding table: plain, packed, or trained through a quantizer. Rows by token, and logits where it is tied.

Axes: V rows of the table, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import Slot
from blockzoo.linear import LINEAR, StoredLinear, StraightThrough, phase_of


class Table(nn.Module):
    """The embedding table, weight (V, D): rows by token."""

    def __init__(self, n_rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_rows, dim))

    def rows(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """tokens (...) int64 -> (..., D)."""
        return F.embedding(tokens, self.weight)


class TiedTable(Table):
    """A table that is the unembedding too."""

    def __init__(self, n_rows: int, dim: int) -> None:
        super().__init__(n_rows, dim)
        self.slot = Slot(LINEAR, quantizer=None, shape=(n_rows, dim))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> logits (..., V)."""
        kernel = self.slot[phase_of(x.numel() // x.shape[-1])]
        return kernel({"weight": self.weight}, x, None, quantizer=None)


class StoredTable(StoredLinear):
    """A packed table: only the rows looked up are unpacked."""

    def rows(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        assert self.quantizer is not None
        return self.quantizer.unpack({name: tensor[tokens] for name, tensor in self.canonical().items()}, dtype)


class FakeQuantTable(Table):
    """A table that keeps its float master and computes with the quantized one. Rows are packed independently."""

    def __init__(self, table: Table, quantizer: QuantizerConfig) -> None:
        nn.Module.__init__(self)
        self.weight = table.weight
        self.quantize = StraightThrough(quantizer)

    def rows(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        return self.quantize(super().rows(tokens, dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.quantize(self.weight))
