"""Tests of a difference: paired, Welch's, Holm over several, and two one-sided tests for being equal.

Vectorised over leading axes, so that their error rates can be measured over thousands of repeats.
Student 1908; Welch 1947, Biometrika 34; Holm 1979, Scand. J. Stat. 6; Schuirmann 1987 (two one-sided tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from scipy import stats

from blockzoo.experiments.statistics.samples import STILL


@dataclass(frozen=True)
class Test:
    """What a t-test rests on, arrays of one shape: ``effect`` / ``error`` is t with ``df`` degrees of freedom.

    ``p`` is two-sided. ``still``: no figure varied, so there is no t, and p is that of an exact test of signs or ranks.
    """

    effect: np.ndarray
    error: np.ndarray
    df: np.ndarray
    p: np.ndarray
    still: np.ndarray

    def half_width(self, level: float) -> np.ndarray:
        """Of the interval about ``effect`` that holds the truth with probability 1 - ``level``."""
        return stats.t.isf(level / 2, self.df) * self.error

    def p_equal(self, within: float) -> np.ndarray:
        """p of "the true difference is ``within`` or more": two one-sided tests, the worse of both."""
        distance = within - np.abs(self.effect)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.still, 1.0, stats.t.sf(distance / self.error, self.df))


def paired(differences: np.ndarray) -> Test:
    """differences (..., n), n >= 2: is their mean 0? Where all are the same, the test of signs answers."""
    n = differences.shape[-1]
    effect = differences.mean(axis=-1)
    sigma = differences.std(axis=-1, ddof=1)
    still = sigma <= STILL * np.abs(differences).max(axis=-1)
    return _test(effect, sigma / n**0.5, np.full(effect.shape, n - 1.0), still, 2.0 ** (1 - n))


def welch(x: np.ndarray, y: np.ndarray) -> Test:
    """x (..., n), y (..., m), n and m >= 2: have they one mean? Where neither varies, the test of ranks answers."""
    n, m = x.shape[-1], y.shape[-1]
    effect = x.mean(axis=-1) - y.mean(axis=-1)
    of_x, of_y = x.var(axis=-1, ddof=1) / n, y.var(axis=-1, ddof=1) / m
    size = np.maximum(np.abs(x).max(axis=-1), np.abs(y).max(axis=-1))
    still = np.sqrt(of_x + of_y) <= STILL * size
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (of_x + of_y) ** 2 / (of_x**2 / (n - 1) + of_y**2 / (m - 1))
    return _test(effect, np.sqrt(of_x + of_y), np.where(still, n + m - 2.0, df), still, min(1.0, 2 / comb(n + m, n)))


def _test(effect: np.ndarray, error: np.ndarray, df: np.ndarray, still: np.ndarray, exact: float) -> Test:
    error = np.where(still, 0.0, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_t = 2 * stats.t.sf(np.abs(effect) / error, df)
    return Test(effect, error, df, np.where(still, np.where(effect == 0, 1.0, exact), by_t), still)


def holm(p: np.ndarray) -> np.ndarray:
    """p (..., m) of m tests -> corrected p: any below a level at most that often where nothing is to be found."""
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    grown = np.take_along_axis(p, order, axis=-1) * np.arange(m, 0, -1)
    corrected = np.minimum(np.maximum.accumulate(grown, axis=-1), 1.0)
    out = np.empty_like(corrected)
    np.put_along_axis(out, order, corrected, axis=-1)
    return out
