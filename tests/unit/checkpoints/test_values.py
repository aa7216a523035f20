"""NaN and infinity are found by their bits, whatever their sign and payload; nothing else is taken for them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from blockzoo.checkpoints.safetensors_io import StoredTensor
from blockzoo.checkpoints.values import INFINITY, VALUES_AT_ONCE, check_values, greatest
from blockzoo.errors import CheckpointError


def has_nan(values: torch.Tensor) -> bool:
    return greatest(values) > INFINITY[values.dtype][1]


def check(values: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    stored = StoredTensor("name", values.dtype, tuple(values.shape), Path("file"), 0)
    check_values(values, stored, None, "", values.dtype if dtype is None else dtype)


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
        check(torch.ones(3, dtype=dtype))
    check(torch.empty(0))
    for value in (torch.tensor(float("nan")), torch.full((VALUES_AT_ONCE // 4, 2), float("nan")).T):
        with pytest.raises(CheckpointError, match="file: tensor 'name' has NaN in it"):
            check(value)


@pytest.mark.parametrize("infinity", [float("inf"), float("-inf")])
def test_a_vector_alone_may_be_infinite(infinity: float) -> None:
    check(torch.tensor([1.0, infinity]))
    with pytest.raises(CheckpointError, match="has infinity in it, and is no vector"):
        check(torch.tensor([[1.0, infinity]]))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_a_narrower_dtype_cannot_hold(stored: torch.dtype, dtype: torch.dtype) -> None:
    """Exactly what a cast makes infinite is refused."""
    near = torch.finfo(dtype).max * torch.linspace(0.9, 1.1, 4001, dtype=torch.float64)
    found = near.to(stored)
    found = found[found.isfinite()]
    for value in found[::7]:
        for vector in (torch.stack([-value, value / 2]), torch.tensor([float("-inf"), value], dtype=stored)):
            infinite = bool(value.to(dtype).isinf())
            told = pytest.raises(CheckpointError, match="in it, more than") if infinite else nullcontext()
            with told:
                check(vector, dtype)
    with pytest.raises(CheckpointError, match="has 100000 in it, more than float16 holds: say bfloat16 or float32"):
        check(torch.tensor([1.0, -1e5]), torch.float16)
    with pytest.raises(CheckpointError, match="more than bfloat16 holds: say float32"):
        check(torch.tensor([3.4e38]), torch.bfloat16)
