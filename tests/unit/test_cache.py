"""Caches on their own: what is stored, what is handed out, what a window evicts, and undoing."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from blockzoo import building
from blockzoo.cache import ModelCache, TokenState
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.registry import Registry
from blockzoo.step import Keys

CPU = torch.device("cpu")


def make(window: int | None, max_length: int = 10, batch: int = 2) -> tuple[ModelCache, TokenState]:
    state = TokenState(batch, max_length, [(1,)], window=window, device=CPU, dtype=torch.float32)
    return ModelCache([state], batch, max_length, CPU), state


def feed(cache: ModelCache, state: TokenState, n: int, positions: torch.Tensor | None = None) -> dict[int, set[float]]:
    """Append n tokens whose value is their position; returns what each row's attention may look at."""
    step = cache.step((cache.batch_size, n), positions, "prefill")
    (values,), keys = state.extend(step, step.positions[..., None].float())
    assert isinstance(keys, Keys)
    cache.advance(step)
    for row in range(cache.batch_size):
        real = keys.positions[row] >= 0
        assert torch.equal(values[row, real, 0].long(), keys.positions[row, real])
    return {row: set(keys.positions[row][keys.positions[row] >= 0].tolist()) for row in range(cache.batch_size)}


def test_a_full_cache_keeps_everything() -> None:
    cache, state = make(None)
    assert feed(cache, state, 4)[0] == {0, 1, 2, 3}
    assert feed(cache, state, 1)[1] == {0, 1, 2, 3, 4}
    assert feed(cache, state, 3)[0] == set(range(8))


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [2, 3, 2], [5, 1, 1], [1, 6]])
def test_a_ring_hands_out_the_window_and_keeps_no_more(chunks: list[int]) -> None:
    cache, state = make(window=3)
    seen = 0
    for n in chunks:
        visible = feed(cache, state, n)[0]
        for query in range(seen, seen + n):
            assert set(range(max(0, query - 2), query + 1)) <= visible
        seen += n
    assert state.tensors[0].shape == (2, 3, 1)
    assert sorted(state.positions[0].tolist()) == [4, 5, 6]


def test_rows_of_different_length() -> None:
    cache, state = make(None)
    feed(cache, state, 3, torch.tensor([[0, 1, 2], [-1, -1, 0]]))
    assert cache.lengths.tolist() == [3, 1]
    visible = feed(cache, state, 1)
    assert visible == {0: {0, 1, 2, 3}, 1: {0, 1}}
    cache.select(torch.tensor([1, 1, 0]))
    assert feed(cache, state, 1) == {0: {0, 1, 2}, 1: {0, 1, 2}, 2: {0, 1, 2, 3, 4}}


def test_past_max_length_names_the_numbers() -> None:
    cache, state = make(None, max_length=5)
    feed(cache, state, 4)
    with pytest.raises(InputError, match="6 tokens don't fit a cache of max_length 5"):
        feed(cache, state, 2)
    feed(cache, state, 1)
    with pytest.raises(InputError, match="holds 2 rows"):
        cache.step((3, 1), None, "decode")


def test_rolling_back() -> None:
    cache, state = make(None)
    feed(cache, state, 6)
    cache.rollback(2)
    assert feed(cache, state, 1)[0] == {0, 1, 2}
    with pytest.raises(InputError, match="shortest row has 3"):
        cache.rollback(5)


def test_a_ring_that_evicted_refuses_and_nothing_is_forgotten() -> None:
    ring = TokenState(1, 10, [(1,)], window=3, device=CPU, dtype=torch.float32)
    full = TokenState(1, 10, [(1,)], window=None, device=CPU, dtype=torch.float32)
    cache = ModelCache([full, ring], 1, 10, CPU)
    step = cache.step((1, 3), None, "prefill")
    for state in (full, ring):
        state.extend(step, torch.zeros(1, 3, 1))
    cache.advance(step)
    assert ring.can_rollback(1)
    step = cache.step((1, 1), None, "decode")
    for state in (full, ring):
        state.extend(step, torch.zeros(1, 1, 1))
    cache.advance(step)
    with pytest.raises(InputError, match="TokenState can't bring them back"):
        cache.rollback(1)
    assert full.extent == 4
    assert cache.lengths.tolist() == [4]


@pytest.mark.parametrize("window", [None, 3])
def test_a_bookmark_is_returned_to_again_and_again(window: int | None) -> None:
    cache, state = make(window)
    feed(cache, state, 5)
    mark = cache.bookmark()
    assert cache.can_rollback(4) == (window is None)  # a ring that evicted can't
    expected = feed(cache, state, 2)
    for _ in range(2):
        cache.return_to(mark)
        assert cache.lengths.tolist() == [5, 5]
        (again,) = cache.states
        assert isinstance(again, TokenState)
        assert feed(cache, again, 2) == expected


def test_reset_starts_over() -> None:
    cache, state = make(window=3)
    feed(cache, state, 7)
    cache.reset()
    assert feed(cache, state, 2)[0] == {0, 1}


def test_a_cache_of_another_dtype_hands_out_the_models() -> None:
    state = TokenState(1, 8, [(4,)], window=3, device=CPU, dtype=torch.bfloat16)
    cache = ModelCache([state], 1, 8, CPU)
    for n in (2, 2, 1):
        step = cache.step((1, n), None, "prefill")
        (values,), _ = state.extend(step, torch.randn(1, n, 4))
        cache.advance(step)
        assert values.dtype == torch.float32


OSS = {  # gpt-oss's shape, tiny
    "name": "long",
    "vocab_size": 32,
    "context_length": 131072,
    "d_model": 16,
    "norm": {"type": "rms_norm"},
    "position": {
        "type": "rope",
        "theta": 150000,
        "scaling": {"type": "yarn", "factor": 32, "original_context_length": 4096, "truncate": False},
    },
    "blocks": {
        "full": {"type": "gqa", "n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "sinks": True},
        "sliding": {"use": "full", "window": 128},
    },
    "layers": {
        "count": 2,
        "mixer": {"cycle": ["sliding", "full"]},
        "ffn": {"type": "glu", "d_ff": 16},
    },
}


def test_131072_positions_are_accepted_and_sliding_layers_stay_small(registry: Registry) -> None:
    model = building.build(load_config(OSS, registry=registry), registry=registry, seed=0)
    cache = model.new_cache()
    step = cache.step((1, 131071), None, "prefill")
    sliding, full = cache.states
    assert isinstance(sliding, TokenState)
    assert isinstance(full, TokenState)
    for state in (sliding, full):
        state.extend(step, *(torch.randn(1, 1, 131071, 8) for _ in state.tensors))
    cache.advance(step)
    with torch.no_grad():
        logits = model(torch.tensor([[1]]), cache=cache)
    assert logits.isfinite().all()
    assert full.tensors[0].shape[-2] == 131072
    assert sliding.nbytes() == 2 * 128 * 8 * 4
    assert sorted(sliding.positions[0].tolist()) == list(range(131072 - 128, 131072))
    with pytest.raises(InputError, match="131073 tokens don't fit"):
        model(torch.tensor([[1]]), cache=cache)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_is_taken_up_as_a_cache_fills() -> None:
    """Half a gigabyte that is not written to costs nothing: a long cache may be made for a short text."""
    before = resident()
    state = TokenState(1, 1 << 17, [(8, 64), (8, 64)], window=None, device=CPU, dtype=torch.float32)
    cache = ModelCache([state], 1, 1 << 17, CPU)
    step = cache.step((1, 3), None, "prefill")
    state.extend(step, *(torch.ones(1, 8, 3, 64) for _ in range(2)))
    cache.advance(step)
    cache.select(torch.tensor([0, 0]))
    assert state.nbytes() == 1 << 30
    assert resident() - before < 1 << 27


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def test_unwritten_slots_are_clean_where_rows_differ() -> None:
    """A shorter row has slots that only longer rows have written: they take no part, and are no NaN that spreads."""
    cache, state = make(None)
    for tensor in state.tensors:
        tensor.fill_(float("nan"))
    for n, positions in ((3, torch.tensor([[0, 1, 2], [-1, -1, 0]])), (1, None), (2, None)):
        step = cache.step((2, n), positions, "decode")
        (values,), keys = state.extend(step, step.positions[..., None].float())
        cache.advance(step)
        assert values.isfinite().all()
        assert not keys.consecutive


def test_positions_are_the_same_however_a_cache_came_to_them() -> None:
    """Rows that are alike keep no positions of their own; those that a mask or a bias reads are right all the same."""
    for window in (None, 3):
        cache, alike = make(window)
        other, each = make(window)
        for n in (2, 1, 1, 1, 1):
            step = cache.step((2, n), None, "decode")
            _, keys = alike.extend(step, torch.zeros(2, n, 1))
            cache.advance(step)
            line = torch.arange(int(other.lengths[0]), int(other.lengths[0]) + n).expand(2, n)
            step = other.step((2, n), line, "decode")
            _, same = each.extend(step, torch.zeros(2, n, 1))
            other.advance(step)
            assert torch.equal(keys.positions, same.positions)
            assert torch.equal(alike.positions, each.positions)
            assert keys.consecutive
            assert not same.consecutive
