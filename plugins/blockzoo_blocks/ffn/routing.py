"""The ops that begin a mixture of experts: which experts a token takes, and how much each counts.

Axes: N tokens, E experts, K experts a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from blockzoo.kernels import Example, Op

Score = Literal["softmax", "sigmoid"]
Weights = Literal["chosen", "all", "all_renormalized"]
SCORES: tuple[Score, ...] = ("softmax", "sigmoid")


def scores_of(logits: Tensor, score: Score) -> Tensor:
    """(N, E), in float32 or wider."""
    wide = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    return wide.softmax(dim=-1) if score == "softmax" else wide.sigmoid()


def choose_experts_reference(
    logits: Tensor, selection_bias: Tensor | None, *, top_k: int, score: Score, groups: int, top_groups: int
) -> Tensor:
    """Of logits (N, E) the places of the ``top_k`` greatest, greatest first: (N, K) int64; NaN is greater than any
    number, and of equal ones any may come first. Scores are ranked instead where a ``selection_bias`` (E,) is added to
    them, or where experts are in ``groups``, of which only the best ``top_groups`` count.
    """
    if selection_bias is None and groups == 1:
        return logits.topk(top_k, dim=-1).indices
    ranked = scores_of(logits, score)
    if selection_bias is not None:
        ranked = ranked + selection_bias
    if groups > 1:
        ranked = _in_best_groups(ranked, groups, top_groups, best=1 if selection_bias is None else 2)
    return ranked.topk(top_k, dim=-1).indices


def _in_best_groups(ranked: Tensor, groups: int, top_groups: int, best: int) -> Tensor:
    """ranked (N, E) with -inf outside the best groups: by their best two experts where a selection bias is added
    (DeepSeek-V3, arXiv:2412.19437), else by their best one (DeepSeek-V2, arXiv:2405.04434).
    """
    grouped = ranked.unflatten(-1, (groups, -1))  # (N, groups, E / groups)
    worth = grouped.topk(best, dim=-1).values.sum(dim=-1)
    chosen = torch.zeros_like(worth, dtype=torch.bool).scatter(-1, worth.topk(top_groups, dim=-1).indices, True)
    return grouped.masked_fill(~chosen[..., None], float("-inf")).flatten(-2)


def weigh_experts_reference(logits: Tensor, chosen: Tensor, *, score: Score, weights: Weights, scale: float) -> Tensor:
    """Weights (N, K) of the experts ``chosen`` (N, K) int64, in float32 or wider: their scores among the chosen only,
    among all (N, E), or among all and then divided by their sum; times ``scale``.
    """
    if weights == "chosen":
        found = scores_of(logits.gather(-1, chosen), score)
    else:
        found = scores_of(logits, score).gather(-1, chosen)
    if weights == "all_renormalized":
        found = found / found.sum(dim=-1, keepdim=True)
    return found if scale == 1.0 else found * scale


SIZES = ((1, 32, 4), (3, 5, 1), (2, 4, 4), (7, 128, 8), (2, 1, 1), (1, 300, 20))
"""(N, E, K)"""


def _logits(n: int, e: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Each row the same numbers in another order, no two of them equal in any dtype."""
    generator = torch.Generator().manual_seed(e)
    orders = torch.stack([torch.randperm(e, generator=generator) for _ in range(n)])
    return ((orders - e // 3) / min(32, e)).to(device, dtype)


def choices(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """Of one expert, of all, of few among many; by scores with a bias and in groups."""
    plain = {"top_k": 1, "score": "softmax", "groups": 1, "top_groups": 1}
    for n, e, k in SIZES:
        yield _choice(f"{k} of {e}", _logits(n, e, dtype, device), None, {**plain, "top_k": k})
    logits = _logits(3, 16, dtype, device)
    bias = torch.linspace(0.5, 0, 16, device=device).to(dtype)
    for score in SCORES:
        options: dict[str, object] = {**plain, "top_k": 3, "score": score}
        yield _choice(f"by {score} and bias", logits, bias, options)
        for best in (1, 2):
            grouped = {**options, "groups": 4, "top_groups": best}
            yield _choice(f"by {score} in {best} of 4 groups", logits, None, grouped)
            yield _choice(f"by {score} and bias in {best} of 4 groups", logits, bias, grouped)


def _choice(name: str, logits: Tensor, bias: Tensor | None, options: dict[str, object]) -> Example:
    static = {**options, "selection_bias": bias is not None}
    return Example(name, (logits, bias), options, static)


def weighings(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """Every recipe, and logits far apart."""
    recipes: tuple[tuple[Score, Weights], ...] = (
        *(("softmax", "chosen"), ("softmax", "all"), ("softmax", "all_renormalized")),
        *(("sigmoid", "all"), ("sigmoid", "all_renormalized")),
    )
    for i, (n, e, k) in enumerate(SIZES):
        for score, weights in recipes:
            logits = _logits(n, e, dtype, device) * (20 if i == 3 else 1)
            chosen = logits.topk(k, dim=-1).indices.flip(-1)
            options = {"score": score, "weights": weights, "scale": 2.5 if i % 2 else 1.0}
            yield Example(f"{k} of {e}, {score}, {weights}", (logits, chosen), options, options)


CHOOSE_EXPERTS = Op(
    "choose_experts",
    choose_experts_reference,
    choices,
    {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6},
    frozenset({"top_k", "score", "groups", "top_groups", "selection_bias"}),
)
WEIGH_EXPERTS = Op(
    "weigh_experts",
    weigh_experts_reference,
    weighings,
    {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6},
    frozenset({"score", "weights", "scale"}),
)
