"""The plainest block of each kind: what the suite puts around a block that needs others.

Axes: B batch, T tokens, S keys, D d_model.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from blockzoo.blocks import (
    AttentionPositionConfig,
    Aux,
    Cost,
    Dims,
    FFNConfig,
    LinearFactory,
    NormConfig,
    Parameter,
    PositionForm,
    Role,
    linear_cost,
)
from blockzoo.step import Step


class ToyNormConfig(NormConfig):
    """x / (1 + mean |x|) * gain."""

    def build(self, dim: int) -> nn.Module:
        return ToyNorm(dim)

    def cost(self, dim: int) -> Cost:
        return Cost({"weight": Parameter((dim,), Role.GAIN)})


class ToyNorm(nn.Module):
    """(..., D) -> (..., D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + x.abs().mean(dim=-1, keepdim=True)) * self.weight


class ToyFFNConfig(FFNConfig):
    """One matrix. It reports how many tokens it saw."""

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        return ToyFFN(dims.d_model)

    def cost(self, dims: Dims) -> Cost:
        return linear_cost(dims.d_model, dims.d_model, bias=True, role=Role.RESIDUAL_OUTPUT).under("down")


class ToyFFN(nn.Module):
    """(..., D) -> (..., D), aux."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.down = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        return self.down(x), {"seen": torch.tensor(float(x[..., 0].numel()))}


class ToyMixer(nn.Module):
    """o(mean of the tokens so far): (x (B, T, D), step, state) -> (B, T, D). The state holds sum and count."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.o = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, step: Step, state: ToyState | None = None) -> Tensor:
        real = (step.positions >= 0)[..., None].to(x.dtype)
        total, count = (x * real).cumsum(dim=1), real.cumsum(dim=1)
        if state is not None:
            total, count = total + state.total.to(x.dtype), count + state.count.to(x.dtype)
            state.total, state.count = total[:, -1:].detach(), count[:, -1:].detach()
        return self.o(total / count.clamp(min=1))

    def new_state(self, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype) -> ToyState:
        return ToyState(batch_size, self.o.in_features, device, dtype)

    @staticmethod
    def cost(d_model: int) -> Cost:
        return linear_cost(d_model, d_model, bias=False, role=Role.RESIDUAL_OUTPUT).under("o")


class ToyState:
    """total (B, 1, D) and count (B, 1, 1)."""

    def __init__(self, batch_size: int, d_model: int, device: torch.device, dtype: torch.dtype) -> None:
        self.total = torch.zeros(batch_size, 1, d_model, device=device, dtype=dtype)
        self.count = torch.zeros(batch_size, 1, 1, device=device, dtype=dtype)

    def select(self, rows: Tensor) -> None:
        self.total, self.count = self.total[rows], self.count[rows]

    def reset(self) -> None:
        self.total.zero_()
        self.count.zero_()

    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.itemsize for tensor in (self.total, self.count))


class ToyBiasConfig(AttentionPositionConfig):
    """The root of the distance off each score. A bias that is linear, as ALiBi's, would be the same to a softmax
    wherever the query stood.
    """

    form: ClassVar[PositionForm] = "biasing"

    steepness: float = 1.0

    @classmethod
    def samples(cls) -> list[ToyBiasConfig]:
        return [cls(), cls(steepness=3.0)]

    def build(self, head_dim: int, n_heads: int) -> nn.Module:
        return ToyBias(n_heads, self.steepness)


class ToyBias(nn.Module):
    """Another slope for each head."""

    def __init__(self, n_heads: int, steepness: float) -> None:
        super().__init__()
        self.n_heads, self.steepness = n_heads, steepness

    def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        return q, k

    def bias(self, positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = (positions[:, None, :, None] - key_positions[:, None, None, :]).clamp(min=0)  # (B, 1, T, S)
        slopes = self.steepness * torch.arange(1, self.n_heads + 1, device=positions.device) / self.n_heads
        return -distance.float().sqrt() * slopes[:, None, None]
