"""Two mixers that only tests have: they prove that the contract is not about keys and values.

``mla``: multi-head latent attention, DeepSeek-V2, arXiv:2405.04434: the cache holds a compressed latent and one
rotated key for all heads. ``gated_recurrence``: a diagonal linear recurrence with input-dependent decay (the common
core of gated linear attention, arXiv:2312.06635, and minGRU, arXiv:2410.01201): no positions, a state instead of
keys.

Axes: B batch, T tokens, S stored, H heads, R latent width, N nope width, P rotated width, V value width, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from blockzoo.blocks import (
    AttentionPositionConfig,
    Cost,
    Dims,
    MixerConfig,
    NormConfig,
    PositionForm,
    Role,
    StateTensor,
    linear_cost,
)
from blockzoo.cache import State, TokenState
from blockzoo.hookspecs import hookimpl
from blockzoo.kernels import Slot
from blockzoo.registry import Registrar
from blockzoo.step import Step
from blockzoo_blocks.mixers.attention import ATTENTION
from blockzoo_blocks.norms.rms_norm import RMSNormConfig


class MLAConfig(MixerConfig):
    """YAML: ``mixer: {type: mla, n_heads: 128, q_rank: 1536, kv_rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128,
    norm: rms_norm}``.
    """

    positions: ClassVar[frozenset[PositionForm]] = frozenset({"rotating", "none"})
    counts_decode: ClassVar[bool] = False  # it makes keys and values of all latents anew

    n_heads: PositiveInt = Field(description="heads")
    q_rank: PositiveInt = Field(description="width of the queries' latent")
    kv_rank: PositiveInt = Field(description="width of the latent that keys and values share")
    nope_dim: PositiveInt = Field(description="features of a head that are not rotated")
    rope_dim: PositiveInt = Field(description="features of a head that are rotated; the key's are shared by all heads")
    v_dim: PositiveInt = Field(description="width of a head's values")
    norm: NormConfig = Field(description="norm on both latents")

    @classmethod
    def samples(cls) -> list[MLAConfig]:
        sizes = {"q_rank": 24, "kv_rank": 16, "nope_dim": 8, "rope_dim": 4, "v_dim": 12}
        return [cls(n_heads=2, norm=RMSNormConfig(), **sizes)]

    def check_position(self, dims: Dims, position: AttentionPositionConfig) -> Iterator[str]:
        if reason := position.refuses(self.rope_dim):
            yield reason

    def build(self, dims: Dims, position: AttentionPositionConfig) -> MLA:
        return MLA(self, dims, position)

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        heads, head_dim = self.n_heads, self.nope_dim + self.rope_dim
        return (
            linear_cost(dims.d_model, self.q_rank, bias=False).under("q_down")
            + self.norm.cost(self.q_rank).under("q_norm")
            + linear_cost(self.q_rank, heads * head_dim, bias=False).under("q_up")
            + linear_cost(dims.d_model, self.kv_rank + self.rope_dim, bias=False).under("kv_down")
            + self.norm.cost(self.kv_rank).under("kv_norm")
            + linear_cost(self.kv_rank, heads * (self.nope_dim + self.v_dim), bias=False).under("kv_up")
            + linear_cost(heads * self.v_dim, dims.d_model, bias=False, role=Role.RESIDUAL_OUTPUT).under("o")
            + Cost(flops=2 * heads * context * (head_dim + self.v_dim))
            + Cost(cache=(StateTensor((context, self.kv_rank)), StateTensor((context, self.rope_dim))))
        )


class MLA(nn.Module):
    """(x (B, T, D), step, state) -> (B, T, D)."""

    def __init__(self, recipe: MLAConfig, dims: Dims, position: AttentionPositionConfig) -> None:
        super().__init__()
        heads, head_dim = recipe.n_heads, recipe.nope_dim + recipe.rope_dim
        self.q_down = nn.Linear(dims.d_model, recipe.q_rank, bias=False)
        self.q_norm = recipe.norm.build(recipe.q_rank)
        self.q_up = nn.Linear(recipe.q_rank, heads * head_dim, bias=False)
        self.kv_down = nn.Linear(dims.d_model, recipe.kv_rank + recipe.rope_dim, bias=False)
        self.kv_norm = recipe.norm.build(recipe.kv_rank)
        self.kv_up = nn.Linear(recipe.kv_rank, heads * (recipe.nope_dim + recipe.v_dim), bias=False)
        self.o = nn.Linear(heads * recipe.v_dim, dims.d_model, bias=False)
        self.position = position.build(recipe.rope_dim, heads)
        self.sizes = (recipe.nope_dim, recipe.rope_dim, recipe.v_dim)
        self.widths = (recipe.kv_rank, recipe.rope_dim)
        self.n_heads = heads
        self.attend = Slot(ATTENTION, n_heads=heads, n_kv_heads=heads, head_dim=head_dim, scale=head_dim**-0.5)

    def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
        nope, rope, value = self.sizes
        q = self.q_up(self.q_norm(self.q_down(x))).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        latent, k_rope = self.kv_down(x).split(self.widths, dim=-1)  # (B, T, R), (B, T, P)
        q_nope, q_rope = q.split((nope, rope), dim=-1)
        q_rope, k_rope = self.position.rotate(q_rope, k_rope[:, None], step)
        latent, k_rope = self.kv_norm(latent), k_rope[:, 0]
        stored = state.extend(step, latent, k_rope) if state is not None else ((latent, k_rope), step.keys)
        (latent, k_rope), keys = stored
        k_nope, v = self.kv_up(latent).unflatten(-1, (self.n_heads, -1)).transpose(1, 2).split((nope, value), dim=-1)
        k = torch.cat([k_nope, k_rope[:, None].expand(-1, self.n_heads, -1, -1)], dim=-1)
        q = torch.cat([q_nope, q_rope], dim=-1)
        y = self.attend[step.phase](q, k, v, step.positions, keys, scale=(nope + rope) ** -0.5)
        return self.o(y.transpose(1, 2).flatten(2))

    def new_state(self, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype) -> TokenState:
        shapes = [(width,) for width in self.widths]
        return TokenState(batch_size, max_length, shapes, window=None, device=device, dtype=dtype)


class GatedRecurrenceConfig(MixerConfig):
    """YAML: ``mixer: {type: gated_recurrence, width: 64}``."""

    width: PositiveInt = Field(description="features of the recurrent state")

    @classmethod
    def samples(cls) -> list[GatedRecurrenceConfig]:
        return [cls(width=16)]

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GatedRecurrence:
        return GatedRecurrence(dims.d_model, self.width)

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return (
            linear_cost(dims.d_model, 3 * self.width, bias=True).under("input")
            + linear_cost(self.width, dims.d_model, bias=False, role=Role.RESIDUAL_OUTPUT).under("o")
            + Cost(cache=(StateTensor((self.width,), torch.float32),))
        )


class RecurrentState:
    """One float32 vector a row, whatever the length of the text."""

    def __init__(self, batch_size: int, width: int, device: torch.device) -> None:
        self.hidden = torch.zeros(batch_size, width, device=device)

    def select(self, rows: Tensor) -> None:
        self.hidden = self.hidden[rows]

    def reset(self) -> None:
        self.hidden.zero_()

    def nbytes(self) -> int:
        return self.hidden.numel() * self.hidden.itemsize


class GatedRecurrence(nn.Module):
    """h_t = a_t h_(t-1) + (1 - a_t) u_t, out = o(g_t h_t); padding leaves the state alone."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(d_model, 3 * width)
        self.o = nn.Linear(width, d_model, bias=False)
        self.width = width

    def forward(self, x: Tensor, step: Step, state: RecurrentState | None = None) -> Tensor:
        update, decay, gate = self.input(x).float().chunk(3, dim=-1)
        real = (step.positions >= 0)[..., None]
        decay = torch.where(real, decay.sigmoid(), 1.0)
        hidden = x.new_zeros(x.shape[0], self.width, dtype=torch.float32) if state is None else state.hidden
        outputs = []
        for t in range(x.shape[1]):
            hidden = decay[:, t] * hidden + (1 - decay[:, t]) * update[:, t]
            outputs.append(hidden)
        if state is not None:
            state.hidden = hidden.detach()
        return self.o((torch.stack(outputs, dim=1) * gate.sigmoid()).to(x.dtype))

    def new_state(self, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype) -> State:
        return RecurrentState(batch_size, self.width, device)


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    registry.block("mixer", "mla", MLAConfig)
    registry.block("mixer", "gated_recurrence", GatedRecurrenceConfig)
