"""The start of a mixture of experts in C: a recording goes on, and a prompt and the tokens after it choose alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockzoo.kernels import Call, Capabilities, Kernel, Verdict, no
from blockzoo_cpu.calls import in_one_piece, operation, place
from blockzoo_cpu.mixing import supports
from blockzoo_cpu.products import TYPES

SCORES: Sequence[str] = ("softmax", "sigmoid")
WEIGHTS: Sequence[str] = ("chosen", "all", "all_renormalized")
"""In the order of routing.c, both."""


def supports_choice(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine and call are served."""
    if call.static.get("selection_bias") or call.static.get("groups", 1) > 1:
        return no("ranks logits, not scores with a selection_bias or in groups")
    return supports(capabilities, call)


def supports_weighing(capabilities: Capabilities, call: Call) -> Verdict:
    """The same; prompts in float32 keep the reference's order of operations."""
    if call.dtype == torch.float32 and call.phase == "prefill":
        return no("in float32 serves decoding: prompts keep the reference's order of operations")
    return supports(capabilities, call)


def choose_experts(
    logits: Tensor, selection_bias: Tensor | None, *, top_k: int, score: str, groups: int, top_groups: int
) -> Tensor:
    """As the op ``choose_experts`` says; of equal logits the first come first."""
    return CHOOSE(logits, top_k)


def weigh_experts(logits: Tensor, chosen: Tensor, *, score: str, weights: str, scale: float) -> Tensor:
    """As the op ``weigh_experts`` says."""
    return WEIGH(logits, chosen, SCORES.index(score), WEIGHTS.index(weights), scale)


CHOOSE = operation(
    "choose_experts(Tensor logits, int top_k) -> Tensor",
    "6q",
    like=lambda logits, top_k: logits.new_empty(logits.shape[0], top_k, dtype=torch.int64),
    told=lambda y, logits, top_k: (place(logits), place(y), TYPES[logits.dtype], *logits.shape, top_k),
    ready=in_one_piece,
)
WEIGH = operation(
    "weigh_experts(Tensor logits, Tensor chosen, int score, int recipe, float scale) -> Tensor",
    "9qd",
    like=lambda logits, chosen, score, recipe, scale: logits.new_empty(chosen.shape, dtype=torch.float32),
    told=lambda y, logits, chosen, score, recipe, scale: (
        *(place(logits), place(chosen), place(y), TYPES[logits.dtype], *logits.shape, chosen.shape[1]),
        *(score, recipe, scale),
    ),
    ready=in_one_piece,
)

CHOOSE_EXPERTS = Kernel("cpu_choose_experts", choose_experts, supports_choice, compile_safe=True, priority=50)
WEIGH_EXPERTS = Kernel("cpu_weigh_experts", weigh_experts, supports_weighing, compile_safe=True, priority=50)
