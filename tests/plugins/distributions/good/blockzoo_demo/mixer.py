"""Attention whose output is gated by its input, channel by channel: Qiu et al. 2025, arXiv:2505.06708.

Axes: B batch, T tokens, H heads, Dh head_dim, D d_model.
"""

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import nn

from blockzoo.blocks import Cost, MixerConfig, PositionForm, Role, StateTensor, linear_cost
from blockzoo.cache import TokenState
from blockzoo.kernels import Slot
from blockzoo_blocks.mixers.attention import ATTENTION


class GatedAttentionConfig(MixerConfig):
    """YAML: ``mixer: {type: gated_attention, n_heads: 8}``."""

    positions: ClassVar[frozenset[PositionForm]] = frozenset({"none", "rotating"})

    n_heads: PositiveInt = Field(description="heads")

    def check(self, dims):
        if dims.d_model % self.n_heads:
            yield "n_heads", f"d_model {dims.d_model} is not a multiple of {self.n_heads}"

    def build(self, dims, position):
        linears = {name: nn.Linear(dims.d_model, dims.d_model, bias=False) for name in ("q", "k", "v", "gate", "o")}
        return GatedAttention(
            linears, position.build(dims.d_model // self.n_heads, self.n_heads), self.n_heads, dims.d_model
        )

    def cost(self, dims, position, context):
        head_dim = dims.d_model // self.n_heads
        cost = position.cost(head_dim, self.n_heads).under("position")
        for name in ("q", "k", "v", "gate", "o"):
            role = Role.RESIDUAL_OUTPUT if name == "o" else Role.HIDDEN
            cost += linear_cost(dims.d_model, dims.d_model, bias=False, role=role).under(name)
        entry = StateTensor((self.n_heads, context, head_dim))
        return cost + Cost(flops=4 * dims.d_model * context, cache=(entry, entry))


class GatedAttention(nn.Module):
    """(x (B, T, D), step, state) -> (B, T, D)."""

    def __init__(self, linears, position, n_heads, d_model):
        super().__init__()
        for name, linear in linears.items():
            self.add_module(name, linear)
        self.position = position
        self.shape = (n_heads, d_model // n_heads)
        static = {"scale": self.shape[1] ** -0.5, "window": None, "softcap": None}
        self.attend = Slot(
            ATTENTION, n_heads=n_heads, n_kv_heads=n_heads, head_dim=self.shape[1], sinks=False, **static
        )

    def forward(self, x, step, state=None):
        q, k, v = (
            linear(x).unflatten(-1, self.shape).transpose(1, 2) for linear in (self.q, self.k, self.v)
        )  # (B, H, T, Dh)
        q, k = self.position.rotate(q, k, step)
        (k, v), keys = state.extend(step, k, v) if state is not None else ((k, v), step.keys)
        y = self.attend[step.phase](q, k, v, step.positions, keys, scale=self.shape[1] ** -0.5)
        return self.o(y.transpose(1, 2).flatten(2) * torch.sigmoid(self.gate(x)))

    def new_state(self, batch_size, max_length, device, dtype):
        return TokenState(batch_size, max_length, (self.shape, self.shape), window=None, device=device, dtype=dtype)
