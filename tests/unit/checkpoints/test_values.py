"""NaN is found by its bits, whatever its sign and payload; nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch

from blockzoo.checkpoints.values import VALUES_AT_ONCE, has_nan


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_of_two_bytes(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    nan = every.isnan()
    assert not has_nan(every[~nan])
    assert all(has_nan(torch.stack([every[0], one])) for one in every[nan])


@pytest.mark.parametrize(
    ("dtype", "integer", "infinity"),
    [(torch.float32, torch.int32, 0x7F800000), (torch.float64, torch.int64, 0x7FF0 << 48)],
)
def test_the_ends_of_wide_floats(dtype: torch.dtype, integer: torch.dtype, infinity: int) -> None:
    lowest = torch.iinfo(integer).min
    edges = [0, infinity - 1, infinity, infinity + 1, 2**31 - 1, lowest, lowest + infinity, lowest + infinity + 1, -1]
    for bits in edges:
        value = torch.tensor([0, bits], dtype=integer).view(dtype)
        assert has_nan(value) == bool(value.isnan().any()), hex(bits)


def test_what_can_hold_none() -> None:
    for dtype in (torch.uint8, torch.int8, torch.bool, torch.int64):
        assert not has_nan(torch.ones(3, dtype=dtype))
    assert not has_nan(torch.empty(0))
    assert has_nan(torch.tensor(float("nan")))
    assert has_nan(torch.full((VALUES_AT_ONCE // 4, 2), float("nan")).T)
