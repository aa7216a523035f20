"""Multi-head latent attention: DeepSeek-V2, arXiv:2405.04434. Used by DeepSeek-V2 and V3 and Kimi K2.

Keys and values of all heads are linear in one narrow latent a token; it is all that the cache holds, beside one
rotated key that the heads share. Reference: transformers' DeepseekV3Attention. The surprising thing: one decoded token
never expands the latents. The matrix that would make keys of them is applied to the query instead, and the one for
values to the output, so that decoding is multi-query attention over the latents themselves (section 2.1.2).

Axes: B batch, T tokens, S stored, D d_model, H heads, R latent width; widths of a head: N not rotated, P rotated,
V values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from blockzoo.blocks import (
    AttentionPosition,
    AttentionPositionConfig,
    Cost,
    Dims,
    MixerConfig,
    NormConfig,
    PositionForm,
    Role,
    Scale,
    StateTensor,
    linear_cost,
)
from blockzoo.cache import TokenState
from blockzoo.kernels import Slot
from blockzoo.linear import matrix
from blockzoo.step import Keys, Step
from blockzoo_blocks.mixers.attention import ATTENTION


class MLAConfig(MixerConfig):
    """Multi-head latent attention.

    YAML: ``mixer: {type: mla, n_heads: 128, q_rank: 1536, kv_rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128,
    norm: rms_norm}``.
    """

    positions: ClassVar[frozenset[PositionForm]] = frozenset({"rotating", "none"})
    scales: ClassVar[Mapping[str, Scale]] = {"n_heads": "width", "q_rank": "width", "kv_rank": "width"}

    n_heads: PositiveInt = Field(description="heads", le=2**16)
    q_rank: PositiveInt | None = Field(None, description="width of the queries' latent; default: queries have none")
    kv_rank: PositiveInt = Field(description="width of the latent that keys and values share", le=2**16)
    nope_dim: PositiveInt = Field(description="features of a head that are not rotated", le=2**16)
    rope_dim: PositiveInt = Field(description="rotated features of a head; all heads share the key's", le=2**16)
    v_dim: PositiveInt = Field(description="width of a head's values", le=2**16)
    norm: NormConfig = Field(description="the norm on the latents")
    scale: PositiveFloat | None = Field(
        None,
        description="factor on the scores; default: (nope_dim + rope_dim) ** -0.5; DeepSeek multiplies that by"
        " (0.1 mscale_all_dim ln(factor) + 1) ** 2 where YaRN stretches the context",
    )

    @classmethod
    def samples(cls) -> list[MLAConfig]:
        from blockzoo_blocks.norms.rms_norm import RMSNormConfig

        small = cls(n_heads=4, kv_rank=16, nope_dim=8, rope_dim=4, v_dim=6, norm=RMSNormConfig())
        return [small, small.model_copy(update={"q_rank": 24, "scale": 0.5})]

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        ranks = [rank for rank in (self.q_rank, self.kv_rank) if rank is not None]
        yield from (("norm", reason) for rank in ranks if (reason := self.norm.refuses(rank)))

    def explicit(self, dims: Dims) -> MLAConfig:
        default = (self.nope_dim + self.rope_dim) ** -0.5
        return self.model_copy(update={"scale": default if self.scale is None else self.scale})

    def check_position(self, dims: Dims, position: AttentionPositionConfig) -> Iterator[str]:
        if reason := position.refuses(self.rope_dim):
            yield reason

    def build(self, dims: Dims, position: AttentionPositionConfig) -> MultiHeadLatentAttention:
        recipe = self.explicit(dims)
        assert recipe.scale is not None
        compressed = self.q_rank is not None
        q_width = dims.d_model if self.q_rank is None else self.q_rank
        return MultiHeadLatentAttention(
            q_down=nn.Linear(dims.d_model, q_width, bias=False) if compressed else nn.Identity(),
            q_norm=self.norm.build(q_width) if compressed else nn.Identity(),
            q_up=nn.Linear(q_width, self.n_heads * (self.nope_dim + self.rope_dim), bias=False),
            kv_down=nn.Linear(dims.d_model, self.kv_rank + self.rope_dim, bias=False),
            kv_norm=self.norm.build(self.kv_rank),
            k_up=nn.Linear(self.kv_rank, self.n_heads * self.nope_dim, bias=False),
            v_up=nn.Linear(self.kv_rank, self.n_heads * self.v_dim, bias=False),
            o=nn.Linear(self.n_heads * self.v_dim, dims.d_model, bias=False),
            position=position.build(self.rope_dim, self.n_heads),
            recipe=recipe,
        )

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        heads = self.n_heads
        q_width = dims.d_model if self.q_rank is None else self.q_rank
        cost = position.cost(self.rope_dim, heads).under("position")
        if self.q_rank is not None:
            cost += linear_cost(dims.d_model, self.q_rank, bias=False).under("q_down")
            cost += self.norm.cost(self.q_rank).under("q_norm")
        cost += linear_cost(q_width, heads * (self.nope_dim + self.rope_dim), bias=False).under("q_up")
        cost += linear_cost(dims.d_model, self.kv_rank + self.rope_dim, bias=False).under("kv_down")
        cost += self.norm.cost(self.kv_rank).under("kv_norm")
        cost += linear_cost(self.kv_rank, heads * self.nope_dim, bias=False).under("k_up")
        cost += linear_cost(self.kv_rank, heads * self.v_dim, bias=False).under("v_up")
        cost += linear_cost(heads * self.v_dim, dims.d_model, bias=False, role=Role.RESIDUAL_OUTPUT).under("o")
        scores, values = self.kv_rank + self.rope_dim, self.kv_rank  # decoding works on the latents
        entry = StateTensor((1, context, self.kv_rank + self.rope_dim))
        return cost + Cost(flops=2 * heads * context * (scores + values), cache=(entry,))


class MultiHeadLatentAttention(nn.Module):
    """(x (B, T, D), step, state) -> (B, T, D), causal. The state holds latent and rotated key, (B, 1, S, R + P)."""

    def __init__(
        self,
        q_down: nn.Module,
        q_norm: nn.Module,
        q_up: nn.Module,
        kv_down: nn.Module,
        kv_norm: nn.Module,
        k_up: nn.Module,
        v_up: nn.Module,
        o: nn.Module,
        position: nn.Module,
        recipe: MLAConfig,
    ) -> None:
        super().__init__()
        self.q_down, self.q_norm, self.q_up = q_down, q_norm, q_up
        self.kv_down, self.kv_norm, self.k_up, self.v_up = kv_down, kv_norm, k_up, v_up
        self.o = o
        self.position: AttentionPosition = position  # type: ignore[assignment]
        self.n_heads = recipe.n_heads
        self.q_widths = (recipe.nope_dim, recipe.rope_dim)
        self.kv_widths = (recipe.kv_rank, recipe.rope_dim)
        self.scale = recipe.scale
        static = {"n_heads": recipe.n_heads, "scale": recipe.scale, "sinks": False}
        self.attend_expanded = Slot(ATTENTION, n_kv_heads=recipe.n_heads, head_dim=sum(self.q_widths), **static)
        self.attend_latent = Slot(ATTENTION, n_kv_heads=1, head_dim=sum(self.kv_widths), **static)

    def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
        q = self._heads(self.q_up(self.q_norm(self.q_down(x))))  # (B, H, T, N + P)
        q_nope, q_rope = q.split(self.q_widths, dim=-1)
        latent, k_rope = self.kv_down(x)[:, None].split(self.kv_widths, dim=-1)  # (B, 1, T, R), (B, 1, T, P)
        q_rope, k_rope = self.position.rotate(q_rope, k_rope, step)
        entry = torch.cat([self.kv_norm(latent), k_rope], dim=-1)
        (entry,), keys = state.extend(step, entry) if state is not None else ((entry,), step.keys)
        attend = self._absorbed if step.phase == "decode" else self._expanded
        return self.o(attend(q_nope, q_rope, entry, step, keys).transpose(1, 2).flatten(2))

    def _expanded(self, q_nope: Tensor, q_rope: Tensor, entry: Tensor, step: Step, keys: Keys) -> Tensor:
        """Every head gets keys and values of its own, made from the latents: (B, H, T, V)."""
        latent, k_rope = entry.split(self.kv_widths, dim=-1)
        k_nope, v = self._heads(self.k_up(latent[:, 0])), self._heads(self.v_up(latent[:, 0]))
        k = torch.cat([k_nope, k_rope.expand(-1, self.n_heads, -1, -1)], dim=-1)
        q = torch.cat([q_nope, q_rope], dim=-1)
        return self.attend_expanded[step.phase](q, k, v, step.positions, keys, scale=self.scale)

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, entry: Tensor, step: Step, keys: Keys) -> Tensor:
        """The same sums in another order: q (k_up latent) = (q k_up) latent, and v_up after the weighted mean."""
        k_up = matrix(self.k_up, q_nope.dtype).unflatten(0, (self.n_heads, -1))  # (H, N, R)
        v_up = matrix(self.v_up, q_nope.dtype).unflatten(0, (self.n_heads, -1))  # (H, V, R)
        q = torch.cat([q_nope @ k_up, q_rope], dim=-1)  # (B, H, T, R + P)
        latent = entry[..., : self.kv_widths[0]]
        y = self.attend_latent[step.phase](q, entry, latent, step.positions, keys, scale=self.scale)
        return y @ v_up.mT

    def _heads(self, x: Tensor) -> Tensor:
        """(B, S, H * width) -> (B, H, S, width)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def new_state(self, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype) -> TokenState:
        return TokenState(batch_size, max_length, [(1, sum(self.kv_widths))], window=None, device=device, dtype=dtype)
