"""One cast for several products: when it happens, and that the numbers are those of one cast for each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from blockzoo_blocks.casting import cast_once


def test_without_autocast_it_is_the_same_tensor() -> None:
    x = torch.ones(2)
    assert cast_once(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_in_autocast_other_dtypes_stay_as_they_are(dtype: torch.dtype) -> None:
    x = torch.ones(2, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cast_once(x) is x


def test_products_are_to_the_bit_those_of_a_cast_each_and_the_gradient_is_float32() -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(16, 8) for _ in range(3)]
    x = torch.randn(5, 16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = [linear(x) for linear in linears]
        shared = cast_once(x)
        once = [linear(shared) for linear in linears]
    assert all(torch.equal(a, b) for a, b in zip(plain, once, strict=True))
    wanted, found = (torch.autograd.grad(sum(y.float().sum() for y in ys), x)[0] for ys in (plain, once))
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 2**-7


def test_torch_compile_takes_it_whole() -> None:
    torch.compiler.reset()
    x, linear = torch.randn(5, 16), nn.Linear(16, 8)
    compiled = torch.compile(lambda z: linear(cast_once(z)), backend="eager", fullgraph=True)
    assert compiled(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(x), linear(x))
