"""Statistics on synthetic truth: how often verdicts are wrong, intervals cover, and counts of seeds suffice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from blockzoo.experiments.config import StatisticsConfig
from blockzoo.experiments.statistics import Comparison, compare
from blockzoo.experiments.statistics.power import detectable, power, power_apart, seeds_needed
from blockzoo.experiments.statistics.samples import bootstrap, describe, sigma_interval
from blockzoo.experiments.statistics.significance import holm, paired, welch

FAST = StatisticsConfig(resamples=199)
SIGMA = 0.01
REPEATS = 4000


def error_of(share: float, repeats: int = REPEATS) -> float:
    """Four standard errors of a share found in so many repeats."""
    return 4 * math.sqrt(share * (1 - share) / repeats)


def arms(rng: np.random.Generator, shifts: dict[str, float], seeds: int, shared: float = 0.0) -> dict:
    """Normal figures about 1 + shift; ``shared``: the deviation that a seed gives to all arms alike."""
    common = rng.normal(0, shared, seeds)
    return {
        arm: dict(enumerate((1 + shift + common + rng.normal(0, SIGMA, seeds)).tolist()))
        for arm, shift in shifts.items()
    }


# --- the tests by themselves ------------------------------------------------------------------------------------


def test_scipy_agrees() -> None:
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(size=(50, 5)), rng.normal(0.3, 2, size=(50, 5)), rng.normal(size=(50, 8))
    theirs = stats.ttest_rel(x, y, axis=-1)
    ours = paired(x - y)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-9)
    interval = theirs.confidence_interval(0.9)
    np.testing.assert_allclose(ours.effect - ours.half_width(0.1), interval.low, rtol=1e-9)
    theirs, ours = stats.ttest_ind(x, z, axis=-1, equal_var=False), welch(x, z)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-9)
    np.testing.assert_allclose(ours.effect + ours.half_width(0.05), theirs.confidence_interval(0.95).high, rtol=1e-9)
    sides = [stats.ttest_1samp(x, bound, axis=-1, alternative=a).pvalue for bound, a in ((-1, "greater"), (1, "less"))]
    np.testing.assert_allclose(paired(x).p_equal(1.0), np.maximum(*sides), rtol=1e-9)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([[0.5, 0.9], [0.02, 0.01]])), [[1.0, 1.0], [0.02, 0.02]])


@pytest.mark.parametrize("n_arms", [1, 4])
@pytest.mark.parametrize("method", ["paired", "welch"])
def test_false_verdicts_are_at_most_the_level(n_arms: int, method: str) -> None:
    rng = np.random.default_rng(2)
    base, others = rng.normal(size=(REPEATS, 1, 4)), rng.normal(size=(REPEATS, n_arms, 4))
    p = paired(others - base).p if method == "paired" else welch(others, base).p
    wrong = (holm(p) <= 0.05).any(axis=-1).mean()
    assert wrong <= 0.05 + error_of(0.05)
    if n_arms == 4:  # without Holm it would be more
        assert (p <= 0.05).any(axis=-1).mean() > wrong


def test_false_verdicts_beside_true_ones() -> None:
    """Holm guards the arms that are equal to the base whatever the others are."""
    rng = np.random.default_rng(3)
    d = rng.normal(size=(REPEATS, 4, 6)) + np.array([5.0, 5.0, 0.0, 0.0])[:, None]
    assert (holm(paired(d).p)[:, 2:] <= 0.05).any(axis=-1).mean() <= 0.05 + error_of(0.05)


def test_false_equalities_are_at_most_the_level() -> None:
    """An arm exactly as far off as is of interest is called equal no more often than the level says."""
    rng = np.random.default_rng(4)
    test = paired(rng.normal(1.0, 0.3, size=(REPEATS, 5)))
    share = (test.p_equal(1.0) <= 0.05).mean()
    assert share <= 0.05 + error_of(0.05)
    assert (paired(rng.normal(0.0, 0.3, size=(REPEATS, 5))).p_equal(1.0) <= 0.05).mean() > 0.9


@pytest.mark.parametrize("n", [2, 3, 8])
def test_intervals_cover(n: int) -> None:
    rng = np.random.default_rng(5)
    d = rng.normal(3.0, 2.0, size=(REPEATS, n))
    test = paired(d)
    covered = (np.abs(test.effect - 3.0) <= test.half_width(0.05)).mean()
    assert abs(covered - 0.95) <= error_of(0.05)
    sigmas = d.std(axis=-1, ddof=1)
    inside = [sigma_interval(s, n, 0.05) for s in sigmas]
    covered = np.mean([i.low <= 2.0 <= i.high for i in inside])
    assert abs(covered - 0.95) <= error_of(0.05)


def test_the_bootstrap_covers_with_enough_seeds_and_not_normal_figures() -> None:
    rng = np.random.default_rng(6)
    repeats = 300
    found = [bootstrap([rng.exponential(1.0, 40)], level=0.1, resamples=499, seed=i) for i in range(repeats)]
    covered = np.mean([i is not None and i.low <= 1.0 <= i.high for i in found])
    assert abs(covered - 0.9) <= error_of(0.1, repeats)


@pytest.mark.parametrize(("effect", "n", "level"), [(1.0, 5, 0.05), (2.0, 3, 0.05), (0.5, 20, 0.0125)])
def test_power_is_as_predicted(effect: float, n: int, level: float) -> None:
    rng = np.random.default_rng(7)
    test = paired(rng.normal(effect, 1.0, size=(REPEATS, n)))
    found = ((test.p <= level) & (test.effect > 0)).mean()
    assert abs(found - power(effect, 1.0, n, level)) <= error_of(0.5)


def test_power_of_arms_apart_is_as_predicted() -> None:
    rng = np.random.default_rng(8)
    test = welch(rng.normal(1.5, 1.0, size=(REPEATS, 6)), rng.normal(0.0, 1.5, size=(REPEATS, 6)))
    found = ((test.p <= 0.05) & (test.effect > 0)).mean()
    assert abs(found - power_apart(1.5, (1.0, 1.5), 6, 0.05)) <= 0.02 + error_of(0.5)  # its df are a mean


def test_power_has_no_seam_where_its_formula_changes() -> None:
    for n in (2, 3, 10):
        below, above = (power(shift / n**0.5, 1.0, n, 0.0005) for shift in (34.9, 35.1))
        assert above == pytest.approx(below, abs=0.02)


def test_seeds_needed_is_the_fewest() -> None:
    n = seeds_needed(lambda n: power(1.0, 1.0, n, 0.05), 0.8)
    assert n == 10  # the textbook's for one standard deviation
    assert seeds_needed(lambda n: power(1e-4, 1.0, n, 0.05), 0.8) is None
    smallest = detectable(lambda e: power(e, 1.0, 10, 0.05), 0.8, 0.1)
    assert power(smallest, 1.0, 10, 0.05) == pytest.approx(0.8, abs=1e-4)


# --- verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_others", "own_seeds"), [(1, False), (3, False), (1, True)])
def test_a_null_experiment_is_inconclusive_95_times_in_100(n_others: int, own_seeds: bool) -> None:
    """The same arm again, the whole way through: the count is what 0.95 gives, chance apart."""
    rng, repeats, quiet = np.random.default_rng(9), 200, 0
    names = {"base": 0.0, **{f"again {i}": 0.0 for i in range(n_others)}}
    for _ in range(repeats):
        figures = arms(rng, names, seeds=5)
        if own_seeds:
            figures["again 0"] = {seed + 5: x for seed, x in figures["again 0"].items()}
        found = compare(figures, "base", StatisticsConfig(resamples=9))
        quiet += all(d.verdict == "inconclusive" for d in found.differences.values())
    assert stats.binom.cdf(quiet, repeats, 0.95) > 0.01
    print(f"{quiet} of {repeats}")


def test_a_planted_difference_is_found() -> None:
    rng = np.random.default_rng(11)
    figures = arms(rng, {"base": 0, "good": -6 * SIGMA, "bad": 6 * SIGMA, "same": 0.0}, seeds=5)
    found = compare(figures, "base", FAST)
    assert [d.verdict for d in found.differences.values()] == ["better", "worse", "inconclusive"]
    good = found.differences["good"]
    assert good.interval is not None
    assert good.bootstrap is not None
    assert good.interval.low < -6 * SIGMA < good.interval.high
    turned = compare(figures, "base", FAST, lower_is_better=False)
    assert [d.verdict for d in turned.differences.values()] == ["worse", "better", "inconclusive"]


def test_pairing_finds_what_the_order_of_the_data_hides() -> None:
    rng = np.random.default_rng(12)
    figures = arms(rng, {"base": 0, "good": -4 * SIGMA}, seeds=6, shared=0.5)
    assert compare(figures, "base", FAST).differences["good"].verdict == "better"
    apart = {"base": figures["base"], "good": {seed + 100: x for seed, x in figures["good"].items()}}
    assert compare(apart, "base", FAST).differences["good"].verdict == "inconclusive"


def test_more_seeds_as_many_as_it_says() -> None:
    """Where it asks for more seeds and gets them, the planted difference is found about as often as ``power`` says."""
    d, sigma = 0.6, 1.0
    figures = {"base": dict.fromkeys(range(6), 0.0), "arm": dict(enumerate(_exactly(d, sigma, 6)))}
    found = compare(figures, "base", FAST).differences["arm"]
    assert found.verdict == "inconclusive"
    assert found.more_seeds is not None
    assert f"about {found.more_seeds} more seeds" in found.advice
    rng = np.random.default_rng(13)
    repeats = paired(rng.normal(d, sigma, size=(REPEATS, 6 + found.more_seeds)))
    assert (repeats.p <= 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_out_of_reach_is_said_with_what_they_are_equal_within() -> None:
    figures = {"base": dict.fromkeys(range(5), 1.0), "arm": {i: 1 + x for i, x in enumerate(_exactly(1e-6, 0.01, 5))}}
    found = compare(figures, "base", FAST).differences["arm"]
    assert found.verdict == "inconclusive"
    assert found.more_seeds is None
    assert found.interval is not None
    assert f"more than 1000 seeds; as far as these show, the arms are equal within {found.interval.farthest:.2g}" in (
        found.reason
    )


def test_equal_is_a_verdict_where_an_effect_of_interest_is_named() -> None:
    figures = {"base": dict.fromkeys(range(6), 1.0), "arm": {i: 1 + x for i, x in enumerate(_exactly(1e-3, 1e-3, 6))}}
    assert compare(figures, "base", FAST).differences["arm"].verdict == "inconclusive"
    found = compare(figures, "base", FAST.model_copy(update={"smallest_effect": 0.01})).differences["arm"]
    assert found.verdict == "equal"
    assert found.p_equal is not None
    asked = FAST.model_copy(update={"smallest_effect": 0.0015})
    assert "the smallest of interest" in compare(figures, "base", asked).differences["arm"].advice


# --- what can't be judged ---------------------------------------------------------------------------------------


def only(figures: dict, settings: StatisticsConfig = FAST) -> tuple[Comparison, object]:
    found = compare(figures, "base", settings)
    return found, found.differences["arm"]


def test_one_seed() -> None:
    found, d = only({"base": {0: 1.0}, "arm": {0: 0.5}})
    assert (d.verdict, d.effect, d.interval, d.p) == ("inconclusive", -0.5, None, None)
    assert d.reason == "arm and base have one seed: noise can't be measured"
    assert "at least 3 seeds" in d.advice
    assert found.noise.sigma is None


def test_two_seeds_have_a_wide_interval_and_no_bootstrap() -> None:
    _, d = only({"base": {0: 1.0, 1: 1.01}, "arm": {0: 0.98, 1: 1.0}})
    assert d.method == "paired"
    assert d.interval.half == pytest.approx(12.706 * 0.005, rel=1e-3)
    assert d.bootstrap is None
    assert d.verdict == "inconclusive"


def test_identical_arms() -> None:
    figures = {0: 1.0, 1: 1.1, 2: 1.3}
    _, d = only({"base": figures, "arm": dict(figures)})
    assert (d.effect, d.p, d.verdict) == (0.0, 1.0, "inconclusive")
    assert "same to the last bit" in d.reason


def test_no_variance_is_no_proof_until_signs_are_enough() -> None:
    for n, verdict in ((3, "inconclusive"), (6, "better")):
        _, d = only({"base": dict.fromkeys(range(n), 1.0), "arm": dict.fromkeys(range(n), 0.25)})
        assert d.verdict == verdict
        assert d.p == 2.0 ** (1 - n)
        assert d.interval is None
    apart = {"base": dict.fromkeys(range(3), 1.0), "arm": dict.fromkeys(range(5, 8), 0.25)}
    assert only(apart)[1].p == pytest.approx(0.1)


def test_rounding_is_no_variance() -> None:
    _, d = only({"base": {0: 0.1, 1: 0.2, 2: 0.3}, "arm": {0: 0.1 + 1.1, 1: 0.2 + 1.1, 2: 0.3 + 1.1}})
    assert d.p == 0.25


def test_unequal_seeds_are_paired_where_they_can() -> None:
    rng = np.random.default_rng(14)
    figures = arms(rng, {"base": 0, "arm": 0.1}, seeds=6)
    del figures["arm"][0], figures["base"][5]
    _, d = only(figures)
    assert (d.method, d.n) == ("paired", 4)


def test_diverged_runs_are_counted_and_flatter_nobody() -> None:
    rng = np.random.default_rng(15)
    figures = arms(rng, {"base": 0, "arm": -0.1}, seeds=5)
    figures["arm"][3] = math.nan
    found, d = only(figures)
    assert found.arms["arm"].diverged == (3,)
    assert d.n == 4
    assert d.verdict == "inconclusive"
    assert "didn't diverge" in d.reason
    worse = arms(rng, {"base": 0, "arm": 0.1}, seeds=5)
    worse["arm"][3] = math.inf
    assert only(worse)[1].verdict == "worse"


def test_all_diverged() -> None:
    _, d = only({"base": {0: 1.0, 1: 1.1}, "arm": {0: math.nan, 1: math.inf}})
    assert (d.verdict, d.effect) == ("inconclusive", None)
    assert d.reason == "no run of arm gave a figure: all diverged"
    _, d = only({"base": {}, "arm": {0: 1.0, 1: 1.1}})
    assert d.reason == "no run of base gave a figure"


def test_describe() -> None:
    sample = describe([1.0, 2.0, 3.0, 4.0], level=0.05, resamples=199, seed=0)
    assert (sample.n, sample.mean, sample.sigma) == (4, 2.5, pytest.approx(1.29099, rel=1e-5))
    theirs = stats.ttest_1samp([1.0, 2.0, 3.0, 4.0], 0).confidence_interval(0.95)
    assert (sample.interval.low, sample.interval.high) == pytest.approx(tuple(theirs))
    assert sample.bootstrap == describe([1.0, 2.0, 3.0, 4.0], level=0.05, resamples=199, seed=0).bootstrap


def _exactly(mean: float, sigma: float, n: int) -> list[float]:
    """``n`` values of exactly this mean and deviation."""
    x = np.linspace(-1, 1, n)
    return (mean + x / x.std(ddof=1) * sigma).tolist()
