"""Figures of one arm: their mean, how far it may be off, and how much a seed moves them.

t- and chi-squared intervals take figures for normal. The bootstrap (BCa: Efron 1987, J. Am. Stat. Assoc. 82) doesn't,
and is shown beside them; with a handful of seeds it is too narrow, so no verdict rests on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BOOTSTRAP_NEEDS = 3
"""Values: with two of them every resample is one of three."""
STILL = 1e-12
"""Deviations below this share of the values are rounding, not noise."""


@dataclass(frozen=True)
class Interval:
    """Both ends belong to it."""

    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    @property
    def farthest(self) -> float:
        """The greatest magnitude inside."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Sample:
    """Finite figures of one arm and what they say. What too few values can't say is None.

    ``sigma``: standard deviation between seeds; ``sigma_interval``: where the true one is; ``interval`` and
    ``bootstrap``: where the true mean is. ``diverged``: seeds whose figure was no finite number, left out.
    """

    n: int
    mean: float | None
    sigma: float | None
    interval: Interval | None
    bootstrap: Interval | None
    sigma_interval: Interval | None
    diverged: tuple[int, ...] = ()


def describe(
    values: Sequence[float], *, level: float, resamples: int, seed: int, diverged: Sequence[int] = ()
) -> Sample:
    """A sample of finite values; intervals hold the truth with probability 1 - ``level``."""
    n, left_out = len(values), tuple(diverged)
    if n == 0:
        return Sample(0, None, None, None, None, None, left_out)
    x = np.asarray(values, float)
    mean = float(x.mean())
    if n == 1:
        return Sample(1, mean, None, None, None, None, left_out)
    sigma = deviation(x)
    half = float(stats.t.isf(level / 2, n - 1)) * sigma / n**0.5
    return Sample(
        n,
        mean,
        sigma,
        Interval(mean - half, mean + half),
        bootstrap([x], level=level, resamples=resamples, seed=seed),
        sigma_interval(sigma, n, level),
        left_out,
    )


def deviation(x: np.ndarray) -> float:
    """The standard deviation of at least two values; exactly 0 where they differ by rounding only."""
    sigma = float(x.std(ddof=1))
    return sigma if sigma > STILL * float(np.abs(x).max()) else 0.0


def sigma_interval(sigma: float, n: int, level: float) -> Interval:
    """Where the standard deviation is that ``n`` normal values showed as ``sigma``."""
    low, high = stats.chi2.isf([level / 2, 1 - level / 2], n - 1)
    return Interval(sigma * float((n - 1) / low) ** 0.5, sigma * float((n - 1) / high) ** 0.5)


def bootstrap(samples: Sequence[np.ndarray], *, level: float, resamples: int, seed: int) -> Interval | None:
    """The BCa interval of the mean of one sample, or of the first's mean less the second's; None where it has none."""
    if min(len(x) for x in samples) < BOOTSTRAP_NEEDS or all(deviation(x) == 0 for x in samples):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns where jackknife values coincide, and then gives nan
        found = stats.bootstrap(
            samples,
            _mean if len(samples) == 1 else _mean_difference,
            confidence_level=1 - level,
            n_resamples=resamples,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return Interval(low, high) if np.isfinite([low, high]).all() else None


def _mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return x.mean(axis=axis)


def _mean_difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return x.mean(axis=axis) - y.mean(axis=axis)
