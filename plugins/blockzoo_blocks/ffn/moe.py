"""Mixture of experts: Shazeer et al. 2017, arXiv:1701.06538. Used by Qwen3-MoE, gpt-oss, Mixtral, DeepSeek.

A router scores all experts for each token; the top k compute, and their outputs are added by weight. The weights are
the one thing families disagree on (see Router). The balance loss is that of Switch (Fedus et al. 2021,
arXiv:2101.03961): n_experts * sum over experts of load * mean probability, 1 when even. Shared experts (DeepSeekMoE,
arXiv:2401.06066) are one more ffn that every token passes, in Qwen1.5-MoE and Qwen3-Next times the sigmoid of a logit
of the token's: a router of one expert.

Axes: N tokens (batch and time flattened), E experts, K top_k, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from blockzoo.blocks import Aux, Cost, Dims, FFNConfig, LinearFactory, Parameter, Role, Scale, filled, linear_cost
from blockzoo.kernels import Slot
from blockzoo.linear import LINEAR, ExpertLinear, phase_of
from blockzoo_blocks.ffn.glu import GLUConfig
from blockzoo_blocks.ffn.mixing import MIX_EXPERTS
from blockzoo_blocks.ffn.mlp import MLPConfig
from blockzoo_blocks.ffn.routing import CHOOSE_EXPERTS, WEIGH_EXPERTS, Score, Weights, scores_of


class RouterConfig(BaseModel):
    """How experts are chosen and weighed.

    YAML: ``router: {weights: all_renormalized}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bias: bool = Field(False, description="a bias on the router's logits")
    score: Score = Field("softmax", description="how logits become scores (sigmoid: DeepSeek-V3)")
    weights: Weights = Field(
        "all_renormalized",
        description="scores over the chosen only (gpt-oss), over all, or over all and then made to sum to 1 (Qwen3)",
    )
    scale: PositiveFloat = Field(1.0, description="factor on the weights")
    selection_bias: bool = Field(
        False, description="a buffer added to the scores for choosing, not for weighing (DeepSeek-V3)"
    )
    groups: PositiveInt = Field(1, description="experts are in this many equal groups (DeepSeek-V3: 8)")
    top_groups: PositiveInt = Field(1, description="groups that a token may choose experts from (DeepSeek-V3: 4)")

    def problems(self, n_experts: int, top_k: int) -> Iterator[tuple[str, str]]:
        """(field, message) pairs for what is wrong between fields."""
        if self.score == "sigmoid" and self.weights == "chosen":
            yield "weights", "sigmoid scores do not depend on which experts are chosen: use all or all_renormalized"
        if self.groups > 1 and self.weights == "chosen":
            yield "groups", "groups are for weights all and all_renormalized"
        size, rest = divmod(n_experts, self.groups)
        if self.groups > 1 and (rest or size < 2):
            yield "groups", f"{n_experts} experts are not {self.groups} equal groups of two or more"
        elif self.groups > 1 and (self.top_groups > self.groups or self.top_groups * size < top_k):
            yield "top_groups", f"{self.top_groups} of {self.groups} groups of {size} experts can't give top_k {top_k}"


ONE_EXPERT = RouterConfig(score="sigmoid", weights="all")
"""How a shared ffn is weighed."""


class MoEConfig(FFNConfig):
    """A mixture of experts: a router sends each token to a few of many ffns.

    YAML: ``ffn: {type: moe, n_experts: 128, top_k: 8, expert: {type: glu, d_ff: 768}}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "Mixture of experts"
    compile_safe: ClassVar[bool] = False  # experts' row counts are read on the host
    scales: ClassVar[Mapping[str, Scale]] = {"n_experts": "experts"}

    n_experts: PositiveInt = Field(description="routed experts", le=2**14)
    top_k: PositiveInt = Field(description="experts that each token uses", le=2**14)
    expert: FFNConfig = Field(description="what each expert is: an ffn such as glu or mlp")
    router: RouterConfig = Field(RouterConfig(), description="how experts are chosen and weighed")
    shared: FFNConfig | None = Field(None, description="an ffn that every token passes, beside the routed experts")
    shared_gate: bool = Field(
        False, description="the shared ffn's output times the sigmoid of one more logit (Qwen1.5-MoE, Qwen3-Next)"
    )
    balance_loss: NonNegativeFloat = Field(0.0, description="factor on the load-balancing loss in training")

    @classmethod
    def samples(cls) -> list[MoEConfig]:
        glu, mlp = GLUConfig(d_ff=32), MLPConfig(d_ff=32, bias=True)
        sigmoid = RouterConfig(score="sigmoid", selection_bias=True, scale=1.5)
        return [
            cls(n_experts=4, top_k=2, expert=glu),
            cls(n_experts=5, top_k=1, expert=mlp, router=RouterConfig(bias=True, weights="all"), balance_loss=0.01),
            cls(n_experts=4, top_k=2, expert=mlp, router=RouterConfig(bias=True, weights="chosen")),
            cls(n_experts=4, top_k=3, expert=glu, shared=glu, router=sigmoid),
            cls(n_experts=4, top_k=2, expert=glu, shared=glu, shared_gate=True),
        ]

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.top_k > self.n_experts:
            yield "top_k", f"top_k {self.top_k} is more than n_experts {self.n_experts}"
        if not self.expert.stackable:
            name = self.expert.registered or type(self.expert).__name__
            yield "expert", f"ffn {name} declares stackable = False: it can't be an expert"
        if self.router.score == "sigmoid" and self.router.weights == "chosen":
            yield (
                "router.weights",
                "sigmoid scores do not depend on which experts are chosen: use all or all_renormalized",
            )
        yield from ((f"router.{field}", message) for field, message in self.router.problems(self.n_experts, self.top_k))
        yield from ((f"expert.{field}", message) for field, message in self.expert.check(dims))
        if self.shared is not None:
            yield from ((f"shared.{field}", message) for field, message in self.shared.check(dims))
        elif self.shared_gate:
            yield "shared_gate", "there is no shared ffn for it to weigh: give shared, or leave shared_gate out"

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> MoE:
        return MoE(
            router=Router(dims.d_model, self.n_experts, self.top_k, self.router),
            experts=self.expert.build(dims, linear=partial(ExpertLinear, self.n_experts)),
            shared=None if self.shared is None else self.shared.build(dims),
            shared_gate=Router(dims.d_model, 1, 1, ONE_EXPERT) if self.shared_gate else None,
            balance_loss=self.balance_loss,
        )

    def cost(self, dims: Dims) -> Cost:
        one = self.expert.cost(dims)
        stacked = {
            f"experts.{name}": Parameter(
                (self.n_experts, *p.shape), p.role, active=self.top_k * prod(p.shape), init=p.init
            )
            for name, p in one.parameters.items()
        }
        cost = linear_cost(dims.d_model, self.n_experts, bias=self.router.bias, role=Role.ROUTER).under("router")
        cost += Cost(stacked, flops=self.top_k * one.flops)
        if self.router.selection_bias:
            cost += Cost(buffers={"router.selection_bias": Parameter((self.n_experts,), Role.OTHER, init=filled(0.0))})
        if self.shared_gate:
            cost += linear_cost(dims.d_model, 1, bias=False, role=Role.ROUTER).under("shared_gate")
        return cost if self.shared is None else cost + self.shared.cost(dims).under("shared")


class Router(nn.Linear):
    """x (N, D) -> chosen experts (N, K) int64, their weights (N, K), float32 or wider, and all logits (N, E)."""

    selection_bias: Tensor

    def __init__(self, d_model: int, n_experts: int, top_k: int, recipe: RouterConfig) -> None:
        super().__init__(d_model, n_experts, bias=recipe.bias)
        self.slot = Slot(LINEAR, quantizer=None, shape=tuple(self.weight.shape))
        self.choice: dict[str, Any] = {
            "top_k": top_k,
            "score": recipe.score,
            "groups": recipe.groups,
            "top_groups": recipe.top_groups,
        }
        self.weighing: dict[str, Any] = {"score": recipe.score, "weights": recipe.weights, "scale": recipe.scale}
        self.choose = Slot(CHOOSE_EXPERTS, **self.choice, selection_bias=recipe.selection_bias)
        self.weigh = Slot(WEIGH_EXPERTS, **self.weighing)
        if recipe.selection_bias:
            self.register_buffer("selection_bias", torch.zeros(n_experts))
        else:
            self.register_buffer("selection_bias", None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        phase = phase_of(len(x))
        logits = self.slot[phase]({"weight": self.weight}, x, self.bias, quantizer=None)
        chosen = self.choose[phase](logits, self.selection_bias, **self.choice)
        return chosen, self.weigh[phase](logits, chosen, **self.weighing), logits


class MoE(nn.Module):
    """(..., D) -> (..., D), aux: ``balance_loss`` (scalar, already scaled) in training and ``expert_load`` (E,)."""

    def __init__(
        self,
        router: Router,
        experts: nn.Module,
        shared: nn.Module | None,
        shared_gate: Router | None,
        balance_loss: float,
    ) -> None:
        super().__init__()
        self.router = router
        self.experts = experts
        self.shared = shared
        self.shared_gate = shared_gate
        self.balance_loss = balance_loss
        self.mix = Slot(MIX_EXPERTS)

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        tokens = x.flatten(0, -2)
        chosen, weights, logits = self.router(tokens)
        phase = phase_of(len(tokens))
        narrow = tokens.dtype in (torch.bfloat16, torch.float16)  # wider prompts add as training does, bit for bit
        run = self.few if phase == "decode" else self.many if phase == "prefill" and narrow else self.added
        out, counts = run(tokens, chosen, weights)
        if self.shared is not None:
            y = self.shared(tokens)[0]
            out = out + (y if self.shared_gate is None else self.mix[phase](y, self.shared_gate(tokens)[1]))
        return out.view_as(x), self.aux(counts, logits)

    def added(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, D), each row added where it belongs, and how many rows each expert took (E,)."""
        y, order, counts = self.by_expert(tokens, chosen)
        y = y * weights.flatten()[order, None].to(y.dtype)
        rows = order // chosen.shape[-1]
        return torch.zeros_like(tokens).index_add(0, rows, y.to(tokens.dtype)), counts

    def many(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The same without gradients: put in order again, which is sooner done than adding row by row."""
        y, order, counts = self.by_expert(tokens, chosen)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return self.mix["prefill"](y.index_select(0, places), weights).to(tokens.dtype), counts

    def few(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a few tokens, in their own order: nothing is read on the host."""
        n, k = chosen.shape
        # of one token no copies: a kernel sees that all rows are one
        rows = tokens.expand(k, -1) if n == 1 else tokens.repeat_interleave(k, dim=0)
        y, _ = self.experts(rows, chosen.flatten())
        counts = torch.bincount(chosen.flatten(), minlength=self.router.out_features)
        return self.mix["decode"](y, weights).to(tokens.dtype), counts

    def by_expert(self, tokens: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each assignment's expert gives (N K, D), sorted by expert; the order; rows of each expert (E,)."""
        order = chosen.flatten().argsort(stable=True)  # (N K,)
        counts = torch.bincount(chosen.flatten(), minlength=self.router.out_features)
        y, _ = self.experts(tokens.index_select(0, order // chosen.shape[-1]), counts.tolist())
        return y, order, counts

    def aux(self, counts: Tensor, logits: Tensor) -> Aux:
        load = counts / counts.sum().clamp(min=1)
        if not self.balance_loss:
            return {"expert_load": load}
        probabilities = scores_of(logits, self.router.choice["score"])
        even = probabilities.shape[-1] * (load * probabilities.mean(dim=0)).sum()
        return {"expert_load": load, "balance_loss": self.balance_loss * even}
