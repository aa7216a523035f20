"""The backward of causal attention by products, beside float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo_torch.recomputed import MOST_TOKENS, causal_attention, pays


def _gradients(parts: list[Tensor], dy: Tensor, scale: float, by_products: bool) -> list[Tensor]:
    parts = [part.detach().requires_grad_() for part in parts]
    heads = [part.transpose(1, 2) for part in parts]
    if by_products:
        y = causal_attention(*heads, scale)
    else:
        y = F.scaled_dot_product_attention(*heads, is_causal=True, scale=scale)
    return [y.detach(), *torch.autograd.grad(y, parts, dy.to(y.dtype))]


@pytest.mark.parametrize("scale", [0.25, 0.3])
def test_exact_in_float64_and_near_in_bfloat16(scale: float) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, 19, 3, width, dtype=torch.float64) for width in (16, 16, 16)]
    dy = torch.randn(2, 3, 19, 16, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 1e-2)):
        rounded = [part.to(dtype) for part in parts]
        wanted = _gradients([part.double() for part in rounded], dy.to(dtype).double(), scale, by_products=False)
        for found, value in zip(_gradients(rounded, dy, scale, by_products=True), wanted, strict=True):
            assert found.dtype == dtype
            assert (found.double() - value).norm() <= tolerance * value.norm()


def test_serves_training_in_bfloat16_on_a_cpu() -> None:
    q = torch.zeros(1, 4, 8, 16, dtype=torch.bfloat16, requires_grad=True)
    assert pays(q, q, q)
    assert not pays(q.detach(), q.detach(), q.detach())
    assert not pays(q, q[:, :2], q[:, :2])
    assert not pays(q.float(), q, q)
    assert not pays(q.expand(1, 4, 8, 16).repeat(1, 1, MOST_TOKENS, 1), q, q)
    with torch.no_grad():
        assert not pays(q, q, q)
