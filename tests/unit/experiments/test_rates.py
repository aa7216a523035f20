"""The search for a rate, on curves whose best rate is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockzoo.experiments.config import CompletePRate, FixedRate, GridRate
from blockzoo.experiments.rates import Answer, Chosen, NoOptimum, Search, Try, search

Curve = Callable[[float], float | None]


def bowl(best: float, diverges: float = math.inf) -> Curve:
    """A figure that is least at ``best``, quadratic in octaves; None from ``diverges`` on."""
    return lambda lr: None if lr >= diverges else 2.0 + 0.05 * math.log2(lr / best) ** 2


def follow(one: Search, curve: Curve) -> tuple[Answer, dict[float, float | None]]:
    """Do what the search asks for to its end: its last answer and all that was tried."""
    tried: dict[float, float | None] = {}
    for _ in range(50):
        answer = one.next(tried)
        if not isinstance(answer, Try):
            return answer, tried
        assert answer.points, "asks for something"
        assert not set(answer.points) & tried.keys(), "and never twice"
        tried |= {point: curve(point) for point in answer.points}
    raise AssertionError("does not end")


GRID = (1e-3, 2e-3, 4e-3)


def test_an_inner_best_ends_it_at_once() -> None:
    answer, tried = follow(Search(GRID, 4), bowl(2e-3))
    assert answer == Chosen(2e-3)
    assert sorted(tried) == list(GRID)


@pytest.mark.parametrize(("best", "added"), [(2.5e-4, 3), (5e-4, 2), (8e-3, 2), (1.6e-2, 3)])
def test_it_grows_by_factors_of_two_at_the_end_where_the_best_lies(best: float, added: int) -> None:
    answer, tried = follow(Search(GRID, 4), bowl(best))
    assert answer == Chosen(best)
    assert len(tried) == len(GRID) + added
    rates = sorted(tried)
    assert all(high == 2 * low for low, high in pairwise(rates))
    assert rates[0] < best < rates[-1], "a neighbour on either side"


@given(st.integers(-3, 3), st.integers(0, 6), st.floats(-0.45, 0.45))
def test_within_half_an_octave_wherever_it_lies(octave: int, extend: int, off: float) -> None:
    best = 2e-3 * 2 ** (octave + off)
    answer, tried = follow(Search(GRID, extend), bowl(best))
    assert len(tried) <= len(GRID) + extend
    if isinstance(answer, Chosen):
        assert abs(math.log2(answer.lr / best)) <= 0.5
        assert min(tried) < answer.lr < max(tried)
    else:
        assert abs(octave) > extend, "with points to spare there is an optimum"


def test_a_rate_that_diverged_is_worse_than_all_others() -> None:
    assert follow(Search(GRID, 4), bowl(1e-2, diverges=4e-3))[0] == Chosen(2e-3)
    answer, tried = follow(Search(GRID, 4), bowl(1e-2, diverges=8e-3))
    assert answer == Chosen(4e-3)
    assert tried[8e-3] is None
    assert follow(Search(GRID, 4), lambda lr: math.nan if lr > 2e-3 else 2 - lr)[0] == Chosen(2e-3)


def test_when_all_diverge_it_says_what_to_do() -> None:
    answer, tried = follow(Search(GRID, 4), lambda lr: None)
    assert isinstance(answer, NoOptimum)
    assert len(tried) == 3
    for word in ("every learning rate diverged", "0.001, 0.002, 0.004", "learning_rate.points", "warmup", "clip"):
        assert word in answer.reason


@pytest.mark.parametrize(("best", "words"), [(1e-6, ("lowest", "lower")), (10.0, ("highest", "higher"))])
def test_no_optimum_within_what_may_be_added(best: float, words: tuple[str, str]) -> None:
    answer, tried = follow(Search(GRID, 2), bowl(best))
    assert isinstance(answer, NoOptimum)
    assert len(tried) == 5
    assert all(word in answer.reason for word in (*words, "2 of at most 2", "learning_rate.extend"))


def test_one_point_grows_on_both_sides() -> None:
    assert Search((1e-3,), 4).next({1e-3: 2.0}) == Try((5e-4, 2e-3))
    assert follow(Search((1e-3,), 4), bowl(2e-3))[0] == Chosen(2e-3)
    assert isinstance(Search((1e-3,), 1).next({1e-3: 2.0}), NoOptimum)


def test_on_a_plateau_it_takes_the_middle() -> None:
    five = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
    assert follow(Search(five, 0), lambda lr: 1.0)[0] == Chosen(4e-3)
    assert follow(Search(five[:4], 0), lambda lr: 1.0)[0] == Chosen(2e-3), "of two the lower"
    level = {1e-3: 2.1, 2e-3: 2.00001, 4e-3: 2.00002, 8e-3: 2.0}
    assert Search(five[:4], 0).next(level) == Chosen(2e-3), "an end that is no better than its neighbours isn't needed"
    apart = {1e-3: 2.0, 2e-3: 2.1, 4e-3: 2.00001, 8e-3: 2.2}
    assert Search(five[:4], 4).next(apart) == Try((5e-4,)), "only neighbours of the best are its plateau"


def test_points_need_no_order_and_may_repeat() -> None:
    assert Search((4e-3, 1e-3, 1e-3), 0).next({}) == Try((1e-3, 4e-3))
    assert follow(Search((4e-3, 1e-3, 2e-3, 2e-3), 0), bowl(2e-3))[0] == Chosen(2e-3)


def test_figures_to_be_made_great() -> None:
    answer, _ = follow(Search(GRID, 4, lower_is_better=False), lambda lr: -0.1 * abs(math.log2(lr / 8e-3)))
    assert answer == Chosen(8e-3)


def test_policies() -> None:
    assert search(FixedRate(), 1e-3) is None
    assert search(GridRate(type="grid"), 1e-3) == Search((5e-4, 1e-3, 2e-3), 4)
    assert search(GridRate(type="grid", points=(1e-2,), extend=1), 1e-3) == Search((1e-2,), 1)
    assert search(CompletePRate(type="completep", base="small"), 1e-3) is None
    tuned = CompletePRate(type="completep", base="small", points=(1e-3, 2e-3))
    assert search(tuned, 1e-3, lower_is_better=False) == Search((1e-3, 2e-3), 4, lower_is_better=False)
