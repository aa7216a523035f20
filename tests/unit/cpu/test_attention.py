"""Attention in C against the op's reference in double: shapes, options, both instruction sets, and a cache's views."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from blockzoo.kernels import Call, Capabilities
from blockzoo.step import Keys
from blockzoo_blocks.mixers.attention import attention_reference
from blockzoo_cpu import attention
from blockzoo_cpu.compiling import compiler

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
BOUND = {torch.float32: 3e-6, torch.bfloat16: 4e-3}  # bfloat16: half a unit of what is rounded once, at the end


@pytest.fixture(params=["avx512", "portable"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run with the vector kernels, where this CPU has them, and without."""
    if request.param == "portable":
        monkeypatch.setattr(attention, "wide", lambda: False)
    elif not attention.wide():
        pytest.skip("this CPU has no AVX-512 VNNI")
    return request.param


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def rows(n_keys: int) -> tuple[Tensor, Tensor]:
    """Positions of one query and of the keys in two rows: one is short and padded, one out of order as in a ring."""
    ring = (torch.arange(n_keys) - n_keys // 3) % n_keys
    short = torch.arange(n_keys)
    short[(n_keys + 1) // 2 :] = -1
    return torch.tensor([[(n_keys - 1) // 2], [n_keys - 1]]), torch.stack([short, ring])


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(
    "options", [{}, {"window": 5}, {"sinks": True}, {"window": 200, "sinks": True, "softcap": 2.0}]
)
@pytest.mark.parametrize("consecutive", [True, False], ids=["by index", "by position"])
@pytest.mark.parametrize(
    ("kv_heads", "group", "width", "value_width"),
    [(2, 1, 64, 64), (1, 2, 128, 128), (2, 8, 64, 64), (1, 7, 20, 8), (3, 5, 8, 72), (1, 17, 16, 16)],
)
def test_it_equals_the_reference(
    kv_heads: int,
    group: int,
    width: int,
    value_width: int,
    consecutive: bool,
    options: dict[str, object],
    dtype: torch.dtype,
    instructions: str,
) -> None:
    for n_keys in (1, 3, 128, 300):
        q = drawn(2, kv_heads * group, 1, width).to(dtype)
        k, v = drawn(2, kv_heads, n_keys, width, seed=1).to(dtype), drawn(2, kv_heads, n_keys, value_width).to(dtype)
        positions, of_keys = rows(n_keys)
        if consecutive:
            positions, of_keys = torch.full((2, 1), n_keys - 1), torch.arange(n_keys).expand(2, -1)
        keys, said = Keys(of_keys, consecutive), {"scale": width**-0.5, **options}
        if "sinks" in said:
            said["sinks"] = drawn(kv_heads * group).to(dtype)
        exact = {name: value.double() if isinstance(value, Tensor) else value for name, value in said.items()}
        wanted = attention_reference(q.double(), k.double(), v.double(), positions, keys, **exact)  # type: ignore[arg-type]
        found = attention.attention(q, k, v, positions, keys, **said)  # type: ignore[arg-type]
        assert found.dtype == dtype
        assert error(found, wanted) < BOUND[dtype], n_keys


def test_a_view_of_a_long_cache_is_read_where_it_lies(instructions: str) -> None:
    """What lies past the keys in use, and where a row has none, is never looked at."""
    cache = drawn(2, 2, 50, 16)
    cache[:, :, 30:] = float("nan")
    positions, of_keys = rows(30)
    cache[0, :, 15:] = float("nan")
    q, (k, v) = drawn(2, 4, 1, 16), (cache[:, :, :30], cache[:, :, :30, :12])
    found = attention.attention(q, k, v, positions, Keys(of_keys, False), scale=0.25)
    clean = (k.nan_to_num().double(), v.nan_to_num().double())
    wanted = attention_reference(q.double(), *clean, positions, Keys(of_keys, False), scale=0.25)
    assert error(found, wanted) < BOUND[torch.float32]


@pytest.mark.parametrize("sinks", [None, drawn(4)])
def test_a_query_that_sees_nothing_gives_zeros(sinks: Tensor | None, instructions: str) -> None:
    q, k = drawn(2, 4, 1, 16), drawn(2, 2, 9, 16)
    of_keys = torch.full((2, 9), -1)
    found = attention.attention(q, k, k, torch.tensor([[3], [-1]]), Keys(of_keys, False), scale=1.0, sinks=sinks)
    assert torch.equal(found, torch.zeros(2, 4, 1, 16))


def test_great_scores_neither_overflow_nor_hide_a_nan(instructions: str) -> None:
    q, k = torch.full((1, 1, 1, 16), 1e4), torch.full((1, 1, 300, 16), -1e4)
    k[0, 0, 170] = 1e4
    v, keys = drawn(1, 1, 300, 16), Keys(torch.arange(300)[None], True)
    found = attention.attention(q, k, v, torch.tensor([[299]]), keys, scale=1.0)
    assert torch.equal(found[0, 0, 0], v[0, 0, 170])
    k[0, 0, 5, 3] = float("nan")
    assert attention.attention(q, k, v, torch.tensor([[299]]), keys, scale=1.0).isnan().all()


def test_few_heads_share_their_keys_among_threads(instructions: str) -> None:
    """One pair of a row and a key head, more keys than one thread takes: the shares are merged."""
    q, k, v, sinks = drawn(1, 4, 1, 32), drawn(1, 1, 5000, 32), drawn(1, 1, 5000, 32, seed=2), drawn(4)
    keys, where = Keys(torch.arange(5000)[None], True), torch.tensor([[4999]])
    wanted = attention_reference(
        q.double(), k.double(), v.double(), where, keys, scale=0.3, window=4001, sinks=sinks.double()
    )
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = attention.attention(q, k, v, where, keys, scale=0.3, window=4001, sinks=sinks)
            assert error(found, wanted) < 1e-5
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call("attention", "prefill", torch.float32, {}), "one query a row"),
        (Call("attention", "decode", torch.float16, {}), "not float16"),
        (Call("attention", "decode", torch.float32, {"bias": True}), "no bias"),
    ],
)
def test_a_refusal_says_why(call: Call, reason: str) -> None:
    verdict = attention.supports(Capabilities("cpu"), call)
    assert not verdict.ok
    assert reason in verdict.reason
    assert (
        "CPU" in attention.supports(Capabilities("cuda", (9, 0)), Call("attention", "decode", torch.float32, {})).reason
    )
