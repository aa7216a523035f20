"""Choosing and weighing experts in C, beside PyTorch's topk and softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo_blocks.ffn.routing import weigh_experts_reference
from blockzoo_cpu.compiling import compiler
from blockzoo_cpu.routing import SCORES, WEIGHTS, choose_experts, weigh_experts

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
F32, BF16 = torch.float32, torch.bfloat16
PLAIN: dict[str, Any] = {"score": "softmax", "groups": 1, "top_groups": 1}
RECIPE: dict[str, Any] = {"score": "softmax", "weights": "chosen", "scale": 1.0}


def drawn(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize(("rows", "experts", "top_k"), [(1, 32, 4), (700, 32, 4), (5, 128, 8), (9, 7, 7), (0, 4, 2)])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_the_greatest_are_chosen_in_order(rows: int, experts: int, top_k: int, dtype: torch.dtype) -> None:
    logits = drawn(rows, experts, dtype=dtype)
    chosen = choose_experts(logits, None, top_k=top_k, **PLAIN)
    assert torch.equal(logits.gather(-1, chosen), logits.topk(top_k, dim=-1).values)
    assert all(len(set(row)) == top_k for row in chosen.tolist())


def test_of_equal_ones_the_first_comes_first_and_nan_before_all() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor(
        [[1.0, 3, 3, 1, 3], [inf, nan, 2, inf, -nan], [-inf, -inf, -1, -0.5, -inf], [-0.0, 0, 0, -0.0, 0]]
    )
    chosen = choose_experts(logits, None, top_k=4, **PLAIN)
    assert chosen.tolist() == [[1, 2, 4, 0], [1, 4, 0, 3], [3, 2, 0, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize("recipe", WEIGHTS)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_weights_are_those_of_float64(score: Any, recipe: Any, spread: float) -> None:
    logits = drawn(500, 32) * spread
    chosen = logits.topk(4, dim=-1).indices
    options = {"score": score, "weights": recipe, "scale": 2.5}
    found = weigh_experts(logits, chosen, **options)
    wanted = weigh_experts_reference(logits.double(), chosen, **options)
    assert found.dtype == F32
    assert torch.allclose(found.double(), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("least", [-63.0, -66.0, -80.0, -torch.inf])
def test_sigmoids_next_to_nothing_keep_their_proportions(least: float) -> None:
    logits, chosen = torch.tensor([[least, least - 3]]), torch.tensor([[0, 1]])
    for recipe in ("all", "all_renormalized"):
        options: Any = {"score": "sigmoid", "weights": recipe, "scale": 1.0}
        found, wanted = weigh_experts(logits, chosen, **options), weigh_experts_reference(logits, chosen, **options)
        assert torch.allclose(found, wanted, rtol=1e-6, atol=0, equal_nan=True)


def test_the_number_of_rows_may_be_symbolic() -> None:
    def route(logits: Tensor) -> Tensor:
        return weigh_experts(logits, choose_experts(logits, None, top_k=2, **PLAIN), **RECIPE)

    compiled = torch.compile(route, backend="eager", dynamic=True, fullgraph=True)
    for rows in (3, 5):
        logits = drawn(rows, 8)
        torch._dynamo.mark_dynamic(logits, 0)
        assert torch.equal(compiled(logits), route(logits))


@pytest.mark.parametrize("recipe", WEIGHTS)
def test_nan_and_infinity_are_as_in_pytorch(recipe: Any) -> None:
    logits = torch.tensor([[1.0, torch.nan, 0.0], [torch.inf, 1.0, 0.0], [-torch.inf, 1.0, 0.0]])
    chosen = torch.tensor([[1, 0], [0, 1], [0, 1]])
    options = {"score": "softmax", "weights": recipe, "scale": 1.0}
    found, wanted = weigh_experts(logits, chosen, **options), weigh_experts_reference(logits, chosen, **options)
    assert torch.allclose(found, wanted, atol=1e-6, equal_nan=True)


def test_an_expert_that_is_not_there_weighs_nan_and_reads_nothing() -> None:
    chosen = torch.tensor([[0, 2**40], [1, -1], [1, 2]])
    found = weigh_experts(drawn(3, 3), chosen, score="sigmoid", weights="all", scale=1.0)
    assert found.isnan().tolist() == [[False, True], [False, True], [False, False]]
