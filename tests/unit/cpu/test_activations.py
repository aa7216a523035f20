"""GELU in C: every number of bfloat16, a million of float32, gradients, where it is used and where it steps aside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.blocks import Dims
from blockzoo.errors import KernelError
from blockzoo.kernels import PHASES, Call, Capabilities, bind
from blockzoo_blocks.ffn.mlp import MLPConfig
from blockzoo_cpu.activations import ACTIVATION, activation, supports
from blockzoo_cpu.compiling import compiler

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
CPU = Capabilities("cpu")


def gelu(x: Tensor) -> Tensor:
    return activation(x, activation="gelu_tanh")


def every_number() -> Tensor:
    """The finite numbers of bfloat16 up to 1e19, whose squares are still numbers in float32."""
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    return halves[halves.abs() < 1e19]


def exact(x: Tensor) -> tuple[Tensor, Tensor]:
    """gelu_tanh and its derivative in float64, by sigmoids, so that nothing cancels."""
    z = x.double().requires_grad_()
    y = z * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))
    return y.detach(), torch.autograd.grad(y.sum(), z)[0]


def units_off(found: Tensor, wanted: Tensor) -> float:
    """The greatest distance in units of bfloat16's last place; below 2^-100 in those of 2^-100."""
    unit = 2.0 ** (wanted.abs().clamp(min=2.0**-100).log2().floor() - 7)
    return float(((found.double() - wanted) / unit).abs().max())


def test_every_number_is_rounded_from_the_truth() -> None:
    x = every_number()
    assert len(x) > 40_000
    assert units_off(gelu(x), exact(x)[0]) < 0.51


def test_the_gradient_at_every_number_is_rounded_from_the_truth() -> None:
    x = every_number().requires_grad_()
    (dx,) = torch.autograd.grad(gelu(x).sum(), x)
    wanted = exact(x.detach())[1]
    steep = wanted.abs() > 1e-3  # the derivative has a zero near -0.75, where its terms cancel
    assert units_off(dx[steep], wanted[steep]) < 0.51
    assert float((dx - wanted)[~steep].abs().max()) < 1e-5


def test_float32_is_as_near_to_the_truth_as_pytorchs() -> None:
    x = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(3).requires_grad_()
    wanted, slope = exact(x.detach())
    errors = []
    for function in (gelu, _torch):
        y = function(x)
        (dx,) = torch.autograd.grad(y.sum(), x)
        errors.append(torch.stack([(y - wanted).abs(), (dx - slope).abs()]).detach())
    ours, theirs = errors
    assert (ours.mean(dim=-1) <= 1.1 * theirs.mean(dim=-1)).all()
    assert (ours.amax(dim=-1) <= 1.5 * theirs.amax(dim=-1)).all()
    tail = (x.detach() < -3) & (x.detach() > -9)  # 1 + tanh cancels there, a sigmoid doesn't
    assert float((ours[0] / wanted.abs())[tail].max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_not_finite_goes_where_pytorch_sends_it(dtype: torch.dtype) -> None:
    ends = torch.tensor([float("inf"), float("-inf"), float("nan"), 3e38, -3e38, -0.0], dtype=dtype)
    found, wanted = gelu(ends), F.gelu(ends.float(), approximate="tanh")
    assert torch.equal(found.isnan(), wanted.isnan())
    assert found[0] == float("inf")
    assert found[3:].tolist() == [ends[3].item(), 0.0, 0.0]


@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2**-8), (torch.float32, 1e-6)])
@pytest.mark.parametrize("n", [0, 1, 17, 4096, 5 * 4096 + 3])
def test_lengths_up_to_several_threads_shares(n: int, dtype: torch.dtype, unit: float) -> None:
    x = torch.linspace(-6, 6, n, dtype=dtype).requires_grad_()
    y, dy = gelu(x), torch.linspace(1, 2, n, dtype=dtype)
    (dx,) = torch.autograd.grad(y, x, dy)
    wanted, slope = exact(x.detach())
    assert torch.allclose(y.double(), wanted, rtol=unit, atol=1e-6)
    assert torch.allclose(dx.double(), dy.double() * slope, rtol=unit, atol=1e-6)


def test_tensors_and_gradients_may_lie_anyhow() -> None:
    x = torch.randn(6, 10, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    turned = x.transpose(0, 2).detach().requires_grad_()
    y = gelu(turned)
    assert torch.equal(y, gelu(x).transpose(0, 2))
    y.sum().backward()  # a gradient of stride 0
    plain = x.clone().requires_grad_()
    gelu(plain).backward(torch.ones_like(x))
    assert turned.grad is not None
    assert plain.grad is not None
    assert torch.equal(turned.grad, plain.grad.transpose(0, 2))


def test_a_second_derivative_is_an_error_that_names_the_way_out() -> None:
    x = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    (dx,) = torch.autograd.grad(gelu(x).sum(), x, create_graph=True)
    with pytest.raises(KernelError, match="choose 'reference'"):
        dx.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_keep_pytorchs_bits(dtype: torch.dtype) -> None:
    x = torch.linspace(-5, 5, 1000, dtype=dtype).requires_grad_()
    pair = [(y := function(x), torch.autograd.grad(y.sum(), x)[0]) for function in (gelu, _torch)]
    assert all(torch.equal(found, wanted) for found, wanted in zip(*pair, strict=True))


def _torch(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def test_torch_compile_takes_it_whole_in_training() -> None:
    torch.compiler.reset()
    x = torch.linspace(-4, 4, 100, dtype=torch.bfloat16).requires_grad_()
    compiled = torch.compile(lambda z: gelu(z * 2) + 1, backend="aot_eager", fullgraph=True)
    plain = gelu(x * 2) + 1
    assert torch.equal(compiled(x), plain)
    (found,), (wanted,) = (torch.autograd.grad(y.sum(), x) for y in (compiled(x), plain))
    assert torch.equal(found, wanted)


def test_an_mlp_in_autocast_runs_it_and_its_gradients_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    mlp = MLPConfig(d_ff=48, activation="gelu_tanh", bias=True).build(Dims(d_model=16, n_layers=1, context_length=8))
    x = torch.randn(2, 5, 16)
    gradients = []
    for kernels in ({}, {"activation": [ACTIVATION]}):
        lines = bind(mlp, kernels, device=torch.device("cpu"))
        chosen = "cpu_activation" if kernels else "reference"
        assert [line.kernel for line in lines if line.phase == "train"] == [chosen]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, _ = mlp(x)
        gradients.append(torch.autograd.grad(y.float().square().sum(), list(mlp.parameters())))
    for found, wanted in zip(*gradients, strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < 1e-2


@pytest.mark.parametrize("phase", PHASES)
def test_which_calls_it_serves(phase: Any) -> None:
    def asked(dtype: torch.dtype, name: str = "gelu_tanh") -> tuple[bool, str]:
        return supports(CPU, Call("activation", phase, dtype, {"activation": name}))

    assert asked(torch.bfloat16) == (True, "")
    assert asked(torch.float32) == (True, "")
    assert "float64" in asked(torch.float64)[1]
    assert "not silu" in asked(torch.bfloat16, "silu")[1]
