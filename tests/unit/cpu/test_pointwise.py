"""The C kernels of norms, rotation and gates against their references: edge shapes, mixed types, what is not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo.kernels import PHASES, Call, Capabilities, Example, Op
from blockzoo_blocks.ffn.gate import GATE
from blockzoo_blocks.norms.layer_norm import LAYER_NORM
from blockzoo_blocks.norms.rms_norm import RMS_NORM
from blockzoo_blocks.positions.rope import ROTARY
from blockzoo_cpu import pointwise
from blockzoo_cpu.compiling import compiler

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
CPU = torch.device("cpu")
KERNELS = {
    "rms_norm": (RMS_NORM, pointwise.RMS_NORM),
    "layer_norm": (LAYER_NORM, pointwise.LAYER_NORM),
    "rotary": (ROTARY, pointwise.ROTARY),
    "gate": (GATE, pointwise.GATE),
}
NORMS = [(late, offset) for late in (True, False) for offset in (0.0, 1.0)]
PLAIN: dict[str, Any] = {"activation": "silu", "activation_scale": 1.0, "limit": None, "up_shift": 0.0}
GPT_OSS: dict[str, Any] = {"activation": "silu", "activation_scale": 1.702, "limit": 7.0, "up_shift": 1.0}


def served(op: Op, dtype: torch.dtype) -> list[Example]:
    return [
        example
        for example in op.examples(dtype, CPU)
        if pointwise.supports(Capabilities("cpu"), Call(op.name, "decode", dtype, example.static)).ok
    ]


def need_within_one_unit(found: Tensor, wanted: Tensor) -> None:
    """bfloat16 numbers at most one apart, but where terms cancel."""
    assert found.dtype == wanted.dtype
    off = (found.double() - wanted.double()).abs()
    assert bool((off <= wanted.double().abs() * 2**-7 + 1e-6).all()), float(off.max())


@pytest.mark.parametrize("name", KERNELS)
def test_bfloat16_is_within_one_unit_in_the_last_place(name: str) -> None:
    op, kernel = KERNELS[name]
    examples = served(op, torch.bfloat16)
    assert len(examples) >= 8
    for example in examples:
        need_within_one_unit(
            kernel.function(*example.args, **example.kwargs), op.reference(*example.args, **example.kwargs)
        )


def test_a_rotation_in_bfloat16_is_the_references_to_the_bit() -> None:
    for example in served(ROTARY, torch.bfloat16):
        wanted = ROTARY.reference(*example.args, **example.kwargs)
        assert torch.equal(pointwise.rotary(*example.args, **example.kwargs), wanted), example.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_are_turned_where_they_lie_and_stay_so(dtype: torch.dtype) -> None:
    projected = torch.randn(2, 5, 3, 16).to(dtype)
    angles = [torch.randn(2, 1, 5, 8).to(dtype) for _ in range(2)]
    wanted = pointwise.rotary(projected.transpose(1, 2).contiguous(), *angles, interleaved=False)
    for x in (projected.transpose(1, 2), torch.cat([projected, projected], -1)[..., :16].transpose(1, 2)):
        assert torch.equal(pointwise.rotary(x, *angles, interleaved=False), wanted)
    apart = projected.transpose(1, 2).mT.contiguous().mT
    assert torch.equal(pointwise.rotary(apart, *angles, interleaved=False), wanted)
    assert pointwise.rotary(projected.transpose(1, 2), *angles, interleaved=False).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("late", "offset"), NORMS)
@pytest.mark.parametrize("types", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_a_norm_takes_activations_and_gains_of_two_types(
    types: tuple[torch.dtype, torch.dtype], late: bool, offset: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 50, generator=generator), torch.randn(50, generator=generator)
    args, how = (x.to(types[0]), weight.to(types[1])), {"eps": 1e-5, "scale_in_fp32": late, "weight_offset": offset}
    need_within_one_unit(pointwise.rms_norm(*args, **how), RMS_NORM.reference(*args, **how))


@pytest.mark.parametrize("dtype", pointwise.TYPES)
@pytest.mark.parametrize("how", [PLAIN, GPT_OSS, {**PLAIN, "activation": "gelu_tanh"}], ids=["silu", "gpt-oss", "gelu"])
def test_a_gate_goes_where_its_reference_goes_at_the_ends(how: dict[str, Any], dtype: torch.dtype) -> None:
    """Large numbers saturate as they should; what is not a number stays so, and stays alone."""
    gate = torch.tensor([0.0, -0.0, 90.0, -90.0, 1e4, -1e4, float("nan"), 3.0, 1e-30, -20.0], dtype=dtype)
    up = torch.linspace(-9, 9, len(gate)).to(dtype)
    found, wanted = pointwise.gate(gate, up, **how), GATE.reference(gate, up, **how)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.allclose(found[~found.isnan()].float(), wanted[~wanted.isnan()].float(), rtol=1e-2, atol=1e-6)


def test_a_norm_of_what_is_not_a_number_is_none() -> None:
    x = torch.ones(2, 20)
    x[1, 7] = float("nan")
    found = pointwise.rms_norm(x, torch.ones(20), eps=1e-6, scale_in_fp32=True, weight_offset=0.0)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


def test_heads_are_turned_wherever_they_lie() -> None:
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0)).transpose(1, 2)  # (B, T, H, Dh) in memory
    angles = torch.arange(5.0)[None, None, :, None] * torch.tensor([1.0, 0.5, 0.1, 0.01])  # (1, 1, T, 4): for every row
    args = (x, angles.cos(), angles.sin())
    found = pointwise.rotary(*args, interleaved=False)
    assert torch.allclose(found, ROTARY.reference(*args, interleaved=False), atol=1e-6)


@pytest.mark.parametrize("phase", PHASES)
def test_an_activation_it_lacks_is_refused(phase: Any) -> None:
    verdict = pointwise.supports(Capabilities("cpu"), Call("gate", phase, torch.bfloat16, {"activation": "gelu"}))
    assert not verdict.ok
    assert "not gelu" in verdict.reason


def test_prompts_in_float32_keep_the_references_order() -> None:
    calls = {phase: Call("rms_norm", phase, torch.float32, {}) for phase in PHASES}
    verdicts = {phase: pointwise.supports(Capabilities("cpu"), call) for phase, call in calls.items()}
    assert verdicts["decode"].ok
    assert "reference's order" in verdicts["prefill"].reason


@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_type", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias_type", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(), (3,)], ids=["shared", "each_head"])
def test_a_layer_norms_weight_and_bias_may_be_of_types_of_their_own(
    x_type: torch.dtype, weight_type: torch.dtype | None, bias_type: torch.dtype | None, heads: tuple[int, ...]
) -> None:
    """Against PyTorch's own in float64, of the numbers as they are stored."""
    generator = torch.Generator().manual_seed(0)

    def drawn(dtype: torch.dtype | None, *shape: int) -> Tensor | None:
        return None if dtype is None else torch.randn(shape, generator=generator).to(dtype)

    x, weight, bias = drawn(x_type, 2, 5, 3, 40), drawn(weight_type, *heads, 40), drawn(bias_type, *heads, 40)
    assert x is not None
    wanted = torch.nn.functional.layer_norm(x.double(), (40,), None, None, 1e-5)
    wanted = wanted if weight is None else wanted * weight.double()
    wanted = wanted if bias is None else wanted + bias.double()
    for found in (LAYER_NORM.reference(x, weight, bias, eps=1e-5), pointwise.layer_norm(x, weight, bias, eps=1e-5)):
        assert found.dtype == x_type
        assert (found.double() - wanted).abs().max() <= wanted.abs().max() * (1e-6 if x_type == torch.float32 else 4e-3)
