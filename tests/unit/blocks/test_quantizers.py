"""The two formats: exact where exact is possible, within half a step elsewhere, and against an independent decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_blocks.quantizers.mxfp4 import MAGNITUDES, MXFP4Config

VALUES = torch.tensor([*MAGNITUDES, *(-m for m in MAGNITUDES)])


def every_block() -> torch.Tensor:
    """(n, 32): every pair of codes beside a largest one, so that each value meets each scale that it decides."""
    rows = [torch.cat([VALUES, torch.full((16,), float(top))]) for top in MAGNITUDES if top]
    return torch.stack([row[row.abs() <= row[16]].repeat(32)[:32] for row in rows])


@pytest.mark.parametrize("exponent", [-120, -7, 0, 9, 100])
def test_mxfp4_is_exact_on_what_it_can_represent(exponent: int) -> None:
    weight = torch.ldexp(every_block(), torch.tensor(exponent))
    packed = MXFP4Config().pack(weight)
    unpacked = MXFP4Config().unpack(packed, torch.float32)
    assert torch.equal(unpacked, weight)
    assert torch.equal(unpacked.signbit(), weight.signbit())


def test_mxfp4_rounds_to_nearest_even_and_saturates() -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    row = torch.cat([ties, -ties, torch.tensor([7.9, 6.0]), torch.zeros(16)])
    unpacked = MXFP4Config().unpack(MXFP4Config().pack(row[None]), torch.float32)[0]
    assert torch.equal(unpacked[:7], expected)
    assert torch.equal(unpacked[7:14], -expected)
    assert unpacked[14] == 6.0


def test_mxfp4_nearest_by_brute_force() -> None:
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    packed = MXFP4Config().pack(weight)
    scale = torch.ldexp(torch.ones(64, 1), packed["scales"].int() - 127)
    grid = scale[..., None] * VALUES
    best = (weight[..., None] - grid).abs().amin(-1)
    found = (MXFP4Config().unpack(packed, torch.float32) - weight).abs()
    assert torch.allclose(found, best, atol=1e-7)


def test_mxfp4_decodes_every_byte_and_scale_as_an_independent_decoder() -> None:
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 1, 16).expand(255, 16, 1, 16).contiguous()
    scales = torch.arange(255, dtype=torch.uint8).view(255, 1, 1).expand(255, 16, 1).contiguous()
    found = MXFP4Config().unpack({"blocks": blocks, "scales": scales}, torch.float32)
    codes = np.stack([blocks.numpy() & 15, blocks.numpy() >> 4], axis=-1).reshape(255, 16, 32)
    with np.errstate(over="ignore"):
        expected = np.ldexp(VALUES.numpy()[codes], scales.numpy().astype(np.int32) - 127)
    assert np.array_equal(found.numpy(), expected)
    assert torch.isinf(found[253:]).any()
    assert found[0].abs().max() == 6 * 2.0**-127


def test_mxfp4_agrees_with_transformers() -> None:
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(256, (2, 6, 3, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(118, 130, (2, 6, 3), generator=generator, dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=torch.bfloat16)  # (E, in, out)
    ours = MXFP4Config().unpack({"blocks": blocks, "scales": scales}, torch.bfloat16)
    assert torch.equal(ours, theirs.transpose(1, 2))


@pytest.mark.parametrize("group_size", [1, 16, 32, 64])
def test_int8_is_within_half_a_step(group_size: int) -> None:
    quantizer = Int8Config(group_size=group_size)
    weight = torch.randn(17, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 20, 17)[:, None]
    packed = quantizer.pack(weight)
    step = packed["scales"].float().repeat_interleave(group_size, dim=-1)
    error = (quantizer.unpack(packed, torch.float32) - weight).abs()
    assert bool((error <= 0.5001 * step).all())


def test_int8_is_exact_on_what_it_can_represent() -> None:
    quantizer = Int8Config()
    codes = torch.randint(-127, 128, (8, 64), generator=torch.Generator().manual_seed(0)).float()
    codes[:, ::32] = 127
    weight = codes * torch.tensor([2.0**-9])
    assert torch.equal(quantizer.unpack(quantizer.pack(weight), torch.float32), weight)


@pytest.mark.parametrize("quantizer", [MXFP4Config(), Int8Config(group_size=32)], ids=["mxfp4", "int8"])
def test_what_both_keep(quantizer: MXFP4Config | Int8Config) -> None:
    weight = torch.randn(3, 8, 64, generator=torch.Generator().manual_seed(0))
    packed = quantizer.pack(weight)
    declared = quantizer.tensors(tuple(weight.shape))
    assert {name: (tuple(t.shape), t.dtype) for name, t in packed.items()} == {
        name: (t.shape, t.dtype) for name, t in declared.items()
    }
    stored_bits = 8 * sum(t.numel() * t.itemsize for t in packed.values())
    assert stored_bits == quantizer.weight_bits * weight.numel()
    one = {name: tensor[1] for name, tensor in packed.items()}
    whole = quantizer.unpack(packed, torch.float32)
    assert torch.equal(quantizer.unpack(one, torch.float32), whole[1])
    assert torch.equal(quantizer.unpack(quantizer.pack(whole), torch.float32), whole)
    assert quantizer.unpack(quantizer.pack(torch.zeros(2, 32)), torch.float32).abs().max() == 0
    assert "found 48" in str(quantizer.refuses((4, 48)))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinity"):
            quantizer.pack(torch.full((1, 32), bad))
