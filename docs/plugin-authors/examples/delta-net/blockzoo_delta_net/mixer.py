"""Gated delta net: Yang et al. 2024, arXiv:2412.06464. Used by Qwen3-Next, three layers to one of attention.

A memory of fixed size in place of a cache of keys and values, so a decoded token costs the same at any context.
Reference: transformers' Qwen3NextGatedDeltaNet. The surprising thing: queries, keys and values pass a short causal
convolution first, so the state is two tensors: the last inputs of that convolution, and the memory.

Axes: B batch, T tokens, H value heads, Hk key heads, Dk and Dv their widths, C = 2 Hk Dk + H Dv channels, W conv_width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.blocks import (
    AttentionPositionConfig,
    Cost,
    Dims,
    MixerConfig,
    NormConfig,
    Parameter,
    Role,
    Scale,
    StateTensor,
    linear_cost,
)
from blockzoo.step import Step
from blockzoo_delta_net.rule import chunked, recurrent


def draw_filters(tensor: Tensor, generator: torch.Generator) -> None:
    """As ``nn.Conv1d`` draws its own: evenly within the root of 1 / width."""
    bound = tensor.shape[-1] ** -0.5
    tensor.uniform_(-bound, bound, generator=generator)


def draw_rates(tensor: Tensor, generator: torch.Generator) -> None:
    """Rates of fading between 1 and 16, as logarithms: Mamba-2, arXiv:2405.21060."""
    tensor.uniform_(1, 16, generator=generator).log_()


def draw_steps(tensor: Tensor, generator: torch.Generator) -> None:
    """Step sizes between 0.001 and 0.1, evenly in the logarithm, before softplus: Mamba, arXiv:2312.00752."""
    steps = tensor.uniform_(log(0.001), log(0.1), generator=generator).exp_()
    steps.add_(torch.log(-torch.expm1(-steps)))


class GatedDeltaNetConfig(MixerConfig):
    """Gated delta net: a recurrent memory with a short convolution.

    YAML: ``mixer: {type: gated_delta_net, n_heads: 32, n_key_heads: 16, key_dim: 128, value_dim: 128, norm:
    rms_norm}``.
    """

    scales: ClassVar[Mapping[str, Scale]] = {"n_heads": "width", "n_key_heads": "width"}

    n_heads: PositiveInt = Field(description="value heads, each with a memory of its own", le=2**16)
    n_key_heads: PositiveInt | None = Field(None, description="heads of queries and keys; default: n_heads", le=2**16)
    key_dim: PositiveInt = Field(description="width of a head's queries and keys", le=2**16)
    value_dim: PositiveInt = Field(description="width of a head's values", le=2**16)
    norm: NormConfig = Field(description="the norm on what each head reads, before it is gated")
    conv_width: PositiveInt = Field(4, description="how many tokens the convolution sees, the token included", le=64)
    chunk: PositiveInt = Field(64, description="tokens that are worked on at once where there are many", le=1024)

    @classmethod
    def samples(cls) -> list[GatedDeltaNetConfig]:
        from blockzoo_blocks.norms.rms_norm import RMSNormConfig

        small = cls(n_heads=2, key_dim=8, value_dim=12, norm=RMSNormConfig(), chunk=4)
        return [small, small.model_copy(update={"n_heads": 4, "n_key_heads": 2, "conv_width": 1})]

    def key_heads(self) -> int:
        return self.n_heads if self.n_key_heads is None else self.n_key_heads

    def widths(self) -> tuple[int, int, int]:
        """Of queries, keys and values, all heads together."""
        return (self.key_heads() * self.key_dim,) * 2 + (self.n_heads * self.value_dim,)

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.n_heads % self.key_heads():
            yield "n_key_heads", f"n_heads {self.n_heads} is not a multiple of n_key_heads {self.n_key_heads}"
        if reason := self.norm.refuses(self.value_dim):
            yield "norm", reason

    def explicit(self, dims: Dims) -> GatedDeltaNetConfig:
        return self.model_copy(update={"n_key_heads": self.key_heads()})

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GatedDeltaNet:
        return GatedDeltaNet(self, dims.d_model)

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        keys, _, values = self.widths()
        channels, heads = sum(self.widths()), self.n_heads
        outputs = {"q": keys, "k": keys, "v": values, "gate": values, "beta": heads, "decay": heads}
        cost = linear_cost(values, dims.d_model, bias=False, role=Role.RESIDUAL_OUTPUT).under("o")
        for name, width in outputs.items():
            cost += linear_cost(dims.d_model, width, bias=False).under(name)
        cost += self.norm.cost(self.value_dim).under("norm")
        own = {
            "conv.weight": Parameter((channels, 1, self.conv_width), Role.OTHER, init=draw_filters),
            "log_rate": Parameter((heads,), Role.OTHER, init=draw_rates),
            "step_bias": Parameter((heads,), Role.BIAS, init=draw_steps),
        }
        memory = (heads, self.key_dim, self.value_dim)
        state = (StateTensor((self.conv_width - 1, channels)), StateTensor(memory, torch.float32))
        # the memory is read, corrected and read again
        flops = 2 * channels * self.conv_width + 3 * 2 * heads * self.key_dim * self.value_dim
        return cost + Cost(own, flops, state)


class DeltaState:
    """``recent`` (B, W - 1, C): the convolution's last inputs; ``memory`` (B, H, Dk, Dv) float32."""

    def __init__(self, recent: Tensor, memory: Tensor) -> None:
        self.recent = recent
        self.memory = memory

    def select(self, rows: Tensor) -> None:
        self.recent, self.memory = self.recent[rows], self.memory[rows]

    def reset(self) -> None:
        self.recent, self.memory = torch.zeros_like(self.recent), torch.zeros_like(self.memory)

    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.itemsize for tensor in (self.recent, self.memory))


class GatedDeltaNet(nn.Module):
    """(x (B, T, D), step, state) -> (B, T, D). Sees the order of tokens, no positions; padding changes nothing."""

    def __init__(self, recipe: GatedDeltaNetConfig, d_model: int) -> None:
        super().__init__()
        self.widths = recipe.widths()
        keys, _, values = self.widths
        self.q = nn.Linear(d_model, keys, bias=False)
        self.k = nn.Linear(d_model, keys, bias=False)
        self.v = nn.Linear(d_model, values, bias=False)
        self.gate = nn.Linear(d_model, values, bias=False)
        self.beta = nn.Linear(d_model, recipe.n_heads, bias=False)
        self.decay = nn.Linear(d_model, recipe.n_heads, bias=False)
        channels = sum(self.widths)
        self.conv = nn.Conv1d(channels, channels, recipe.conv_width, groups=channels, bias=False)
        self.log_rate = nn.Parameter(torch.empty(recipe.n_heads))
        self.step_bias = nn.Parameter(torch.empty(recipe.n_heads))
        self.norm = recipe.norm.build(recipe.value_dim)
        self.o = nn.Linear(values, d_model, bias=False)
        self.memory_shape = (recipe.n_heads, recipe.key_dim, recipe.value_dim)
        self.chunk = recipe.chunk

    def forward(self, x: Tensor, step: Step, state: DeltaState | None = None) -> Tensor:
        real = step.positions >= 0  # (B, T)
        order = None if step.consecutive else (~real).argsort(dim=1, stable=True)  # padding to the end of its row
        if order is not None:
            x, real = x.take_along_dim(order[..., None], dim=1), real.take_along_dim(order, dim=1)
        before = self.new_state(len(x), 0, x.device, x.dtype) if state is None else state
        inputs = torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)
        inputs = torch.cat([before.recent.to(x.dtype), inputs], dim=1)  # (B, W - 1 + T, C)
        mixed = F.silu(self.conv(inputs.mT)).mT
        y, memory = self._remember(x, mixed, real, before.memory)
        if state is not None:
            last = real.sum(dim=1, keepdim=True) + torch.arange(self.conv.kernel_size[0] - 1, device=x.device)
            state.recent = inputs.detach().take_along_dim(last[..., None], dim=1).to(state.recent.dtype)
            state.memory = memory.detach()
        y = self.norm(y.to(x.dtype)) * F.silu(self.gate(x).unflatten(-1, y.shape[2:]).to(y.dtype))
        y = self.o(y.flatten(2).to(x.dtype))
        return y if order is None else y.take_along_dim(order.argsort(dim=1)[..., None], dim=1)

    def _remember(self, x: Tensor, mixed: Tensor, real: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), mixed (B, T, C), real (B, T) -> what the heads read (B, T, H, Dv), and the memory; float32."""
        heads, key_dim, value_dim = self.memory_shape
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v = mixed.to(wide).split(self.widths, dim=-1)
        q, k = (_unit(part.unflatten(-1, (-1, key_dim))) for part in (q, k))  # (B, T, Hk, Dk)
        q, k = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (q * key_dim**-0.5, k))
        v = v.unflatten(-1, (heads, value_dim))
        log_decay = -self.log_rate.to(wide).exp() * F.softplus(self.decay(x).to(wide) + self.step_bias.to(wide))
        beta = self.beta(x).to(wide).sigmoid()
        log_decay, beta = (torch.where(real[..., None], part, 0.0) for part in (log_decay, beta))
        parts = [part.transpose(1, 2) for part in (q, k, v, log_decay, beta)]
        memory = memory.to(wide)
        y, memory = recurrent(*parts, memory) if x.shape[1] == 1 else chunked(*parts, memory, chunk=self.chunk)
        return y.transpose(1, 2), memory

    def new_state(self, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype) -> DeltaState:
        recent = (batch_size, self.conv.kernel_size[0] - 1, sum(self.widths))
        memory = torch.zeros(batch_size, *self.memory_shape, device=device)
        return DeltaState(torch.zeros(recent, device=device, dtype=dtype), memory)


def _unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis; the 1e-6 under the root is part of the published models."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6)
