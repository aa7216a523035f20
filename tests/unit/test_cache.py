"""Caches on their own: what is stored, what is handed out, what a window evicts, and undoing."""

from __future__ import annotations

import pytest
import torch

from blockzoo.cache import ModelCache, TokenState
from blockzoo.errors import InputError
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
