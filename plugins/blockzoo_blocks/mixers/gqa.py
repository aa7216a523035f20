"""Grouped-query attention: Ainslie et al. 2023, arXiv:2305.13245. With n_kv_heads = n_heads it is multi-head
attention (GPT-2), with 1 multi-query attention (Shazeer 2019, arXiv:1911.02150).

Covers GPT-2 (biases, dropout), Qwen3 (QK-norm before rotation), gpt-oss (biases, sinks, windows), Gemma (scale,
softcap), OLMo 2 (QK-norm over the whole projection) and Command R+ (QK-norm with gains of each head). Reference: Qwen3
and gpt-oss as published. Dropout, where a config asks for it, is on attention weights.

Axes: B batch, T tokens, H query heads, Hk key heads, S stored keys, Dh head_dim, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

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
    Parameter,
    PositionForm,
    Role,
    Scale,
    StateTensor,
    linear_cost,
)
from blockzoo.cache import TokenState
from blockzoo.kernels import Slot
from blockzoo.step import Step
from blockzoo_blocks.casting import cast_once
from blockzoo_blocks.mixers.attention import ATTENTION
from blockzoo_blocks.norms.layer_norm import LayerNormConfig
from blockzoo_blocks.norms.rms_norm import RMSNormConfig

Projection = Literal["q", "k", "v", "o"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v", "o")


class GQAConfig(MixerConfig):
    """Grouped-query attention; multi-head and multi-query are its ends.

    YAML: ``mixer: {type: gqa, n_heads: 64, n_kv_heads: 8, head_dim: 64, bias: true, sinks: true, window: 128}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "Grouped-query attention"
    positions: ClassVar[frozenset[PositionForm]] = frozenset({"none", "rotating", "biasing"})
    row_independent: ClassVar[bool] = True
    scales: ClassVar[Mapping[str, Scale]] = {"n_heads": "width", "n_kv_heads": "width"}  # head_dim is held

    n_heads: PositiveInt = Field(description="query heads", le=2**16)
    n_kv_heads: PositiveInt | None = Field(None, description="key and value heads; default: n_heads", le=2**16)
    head_dim: PositiveInt | None = Field(None, description="width of a head; default: d_model / n_heads", le=2**16)
    bias: bool | tuple[Projection, ...] = Field(
        False, description="biases: on all of q, k, v, o, on none, or a list of them"
    )
    window: PositiveInt | None = Field(
        None, description="how many tokens a query sees, itself included; default: all before"
    )
    sinks: bool = Field(
        False, description="one learned logit a head that takes part in the softmax and brings no value"
    )
    qk_norm: NormConfig | None = Field(None, description="a norm on queries and keys")
    qk_norm_placement: Literal["before", "after"] = Field(
        "before", description="before or after the position's rotation"
    )
    qk_norm_over: Literal["head", "each_head", "projection"] = Field(
        "head",
        description="each head by itself, with one gain for all (head) or its own (each_head), or all heads together",
    )
    scale: PositiveFloat | None = Field(None, description="factor on the scores; default: head_dim ** -0.5")
    softcap: PositiveFloat | None = Field(None, description="c: scores become c * tanh(scores / c)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the attention weights, in training")

    @classmethod
    def samples(cls) -> list[GQAConfig]:
        return [
            cls(n_heads=4, n_kv_heads=2),
            cls(n_heads=4, n_kv_heads=1, head_dim=16, bias=True, sinks=True, window=5),
            cls(n_heads=2, head_dim=8, bias=("q", "v"), qk_norm=RMSNormConfig(), softcap=20.0, window=1),
            cls(n_heads=4, qk_norm=LayerNormConfig(), qk_norm_over="projection", scale=0.5, dropout=0.2),
            cls(n_heads=4, qk_norm=RMSNormConfig(), qk_norm_placement="after", sinks=True),
            cls(n_heads=4, n_kv_heads=2, qk_norm=LayerNormConfig(bias=False), qk_norm_over="each_head"),
        ]

    @property
    def reach(self) -> int | None:
        return self.window

    @property
    def shift_invariant(self) -> bool:
        return self.qk_norm is None or self.qk_norm_placement == "before"  # gains after the rotation tell where it was

    def kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    def width(self, dims: Dims) -> int:
        """head_dim."""
        return dims.d_model // self.n_heads if self.head_dim is None else self.head_dim

    def _normed(self, dims: Dims) -> tuple[int, int]:
        """The widths that ``qk_norm`` works on, of queries and of keys."""
        width = self.width(dims)
        together = self.qk_norm_over == "projection"
        return (self.n_heads * width, self.kv_heads() * width) if together else (width, width)

    def _normed_heads(self) -> tuple[dict[str, int], dict[str, int]]:
        """What a norm is asked beside its width, of queries and of keys: how many heads have gains of their own."""
        own = self.qk_norm_over == "each_head"
        return ({"heads": self.n_heads}, {"heads": self.kv_heads()}) if own else ({}, {})

    def has_bias(self, projection: Projection) -> bool:
        return self.bias if isinstance(self.bias, bool) else projection in self.bias

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.head_dim is None and dims.d_model % self.n_heads:
            yield (
                "n_heads",
                f"d_model {dims.d_model} is not a multiple of n_heads {self.n_heads}; change one or give head_dim",
            )
        if self.n_heads % self.kv_heads():
            yield "n_kv_heads", f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.kv_heads()}"
        if self.qk_norm_over != "head" and self.qk_norm_placement == "after":
            over = "over the whole projection" if self.qk_norm_over == "projection" else "with gains of each head"
            yield "qk_norm_placement", f"a norm {over} stands before the rotation"
        if self.qk_norm_over == "each_head" and self.qk_norm is not None:
            if not isinstance(self.qk_norm, RMSNormConfig | LayerNormConfig):
                yield "qk_norm_over", "gains of each head are for qk_norm rms_norm and layer_norm; say head"
            elif not self.qk_norm.cost(1).parameters:
                yield "qk_norm_over", "each_head gives each head its own gains, and this qk_norm has none; say head"
        if self.qk_norm is not None and self.width(dims):
            reasons = (self.qk_norm.refuses(width) for width in dict.fromkeys(self._normed(dims)))
            yield from (("qk_norm", reason) for reason in reasons if reason)

    def explicit(self, dims: Dims) -> GQAConfig:
        head_dim = self.width(dims)
        derived = {
            "n_kv_heads": self.kv_heads(),
            "head_dim": head_dim,
            "bias": tuple(p for p in PROJECTIONS if self.has_bias(p)),
            "scale": head_dim**-0.5 if self.scale is None else self.scale,
        }
        return self.model_copy(update=derived)

    def check_position(self, dims: Dims, position: AttentionPositionConfig) -> Iterator[str]:
        if reason := position.refuses(self.width(dims)):
            yield reason

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        heads, kv_heads, width = self.n_heads, self.kv_heads(), self.width(dims)
        q_normed, k_normed = self._normed(dims)
        q_heads, k_heads = self._normed_heads()
        return GroupedQueryAttention(
            q=nn.Linear(dims.d_model, heads * width, bias=self.has_bias("q")),
            k=nn.Linear(dims.d_model, kv_heads * width, bias=self.has_bias("k")),
            v=nn.Linear(dims.d_model, kv_heads * width, bias=self.has_bias("v")),
            o=nn.Linear(heads * width, dims.d_model, bias=self.has_bias("o")),
            q_norm=self.qk_norm.build(q_normed, **q_heads) if self.qk_norm else nn.Identity(),
            k_norm=self.qk_norm.build(k_normed, **k_heads) if self.qk_norm else nn.Identity(),
            position=position.build(width, heads),
            sinks=nn.Parameter(torch.empty(heads)) if self.sinks else None,
            recipe=self,
            head_dim=width,
            biased=position.form == "biasing",
        )

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        heads, kv_heads, width = self.n_heads, self.kv_heads(), self.width(dims)
        seen = context if self.window is None else min(context, self.window)
        cost = linear_cost(dims.d_model, heads * width, bias=self.has_bias("q")).under("q")
        cost += linear_cost(dims.d_model, kv_heads * width, bias=self.has_bias("k")).under("k")
        cost += linear_cost(dims.d_model, kv_heads * width, bias=self.has_bias("v")).under("v")
        cost += linear_cost(heads * width, dims.d_model, bias=self.has_bias("o"), role=Role.RESIDUAL_OUTPUT).under("o")
        cost += position.cost(width, heads).under("position")
        if self.qk_norm is not None:
            q_normed, k_normed = self._normed(dims)
            q_heads, k_heads = self._normed_heads()
            cost += self.qk_norm.cost(q_normed, **q_heads).under("q_norm")
            cost += self.qk_norm.cost(k_normed, **k_heads).under("k_norm")
        if self.sinks:
            cost += Cost({"sinks": Parameter((heads,), Role.SINK)})
        scores_and_values = 2 * 2 * heads * width * seen
        return cost + Cost(flops=scores_and_values, cache=(StateTensor((kv_heads, seen, width)),) * 2)


class GroupedQueryAttention(nn.Module):
    """(x (B, T, D), step, state) -> (B, T, D). Causal; a window of w sees the token itself and w - 1 before it."""

    def __init__(
        self,
        q: nn.Module,
        k: nn.Module,
        v: nn.Module,
        o: nn.Module,
        q_norm: nn.Module,
        k_norm: nn.Module,
        position: nn.Module,
        sinks: nn.Parameter | None,
        recipe: GQAConfig,
        head_dim: int,
        biased: bool,
    ) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = q, k, v, o
        self.q_norm, self.k_norm = q_norm, k_norm
        self.position: AttentionPosition = position  # type: ignore[assignment]
        self.sinks = sinks
        self.head_dim = head_dim
        self.kv_heads = recipe.kv_heads()
        self.window = recipe.window
        self.norm_placement = f"{recipe.qk_norm_placement} {recipe.qk_norm_over}".replace("each_head", "head")
        self.dropout = recipe.dropout
        self.options = {
            "scale": head_dim**-0.5 if recipe.scale is None else recipe.scale,
            "window": recipe.window,
            "softcap": recipe.softcap,
        }
        self.attend = Slot(
            ATTENTION,
            n_heads=recipe.n_heads,
            n_kv_heads=recipe.kv_heads(),
            head_dim=head_dim,
            sinks=recipe.sinks,
            bias=biased,
            dropout=recipe.dropout,
            **self.options,
        )

    def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
        x = cast_once(x)
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.norm_placement == "before projection":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))  # (B, T, H or Hk, Dh)
        if self.norm_placement == "before head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = self.position.rotate(q, k, step)
        if self.norm_placement == "after head":
            q, k = self.q_norm(q), self.k_norm(k)
        (k, v), keys = state.extend(step, k, v) if state is not None else ((k, v), step.keys)
        y = self.attend[step.phase](
            q,
            k,
            v,
            step.positions,
            keys,
            sinks=self.sinks,
            bias=self.position.bias(step.positions, keys.positions),
            dropout=self.dropout if self.training and step.phase == "train" else 0.0,
            **self.options,
        )
        return self.o(y.transpose(1, 2).flatten(2))

    def new_state(self, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype) -> TokenState:
        shape = (self.kv_heads, self.head_dim)
        return TokenState(batch_size, max_length, (shape, shape), window=self.window, device=device, dtype=dtype)
