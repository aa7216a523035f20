"""How many seeds a difference takes, and how small a one these seeds could find.

The power of a two-sided t-test by the noncentral t distribution (Cohen 1988). The effect and sigma put in were measured
themselves, so every count is "about".
"""

from __future__ import annotations

from collections.abc import Callable

from scipy import optimize, stats

MOST = 1000
"""Seeds beyond which nobody runs more: such a difference is out of reach."""


def power(effect: float, sigma: float, n: int, level: float) -> float:
    """The chance that ``n`` pairs whose differences deviate by ``sigma`` show a true mean difference ``effect``."""
    return _power(effect * n**0.5 / sigma, n - 1, level)


def power_apart(effect: float, sigmas: tuple[float, float], n: int, level: float) -> float:
    """The same for two arms of ``n`` seeds each that share none: Welch's test."""
    a, b = (sigma**2 for sigma in sigmas)
    df = (n - 1) * (a + b) ** 2 / (a**2 + b**2)
    return _power(effect / ((a + b) / n) ** 0.5, df, level)


def seeds_needed(power_of: Callable[[int], float], wanted: float) -> int | None:
    """The fewest seeds, two at least, that give the power ``wanted``; None where ``MOST`` don't."""
    if power_of(MOST) < wanted:
        return None
    low, high = 1, MOST  # power grows with seeds: bisection
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= wanted else (middle, high)
    return high


def detectable(power_of: Callable[[float], float], wanted: float, scale: float) -> float:
    """The smallest effect that is found with the power ``wanted``; ``scale``: an effect's order of magnitude."""
    if power_of(0.0) >= wanted:
        return 0.0
    top = scale
    while power_of(top) < wanted:
        top *= 2
    return float(optimize.brentq(lambda effect: power_of(effect) - wanted, 0.0, top, xtol=1e-6 * scale))


def _power(noncentrality: float, df: float, level: float) -> float:
    """The nearer tail alone: the chance of a verdict with the wrong sign is no power."""
    shift, critical = abs(noncentrality), float(stats.t.isf(level / 2, df))
    if shift > 35:  # scipy's noncentral t loses its digits out there, where the numerator's own noise is nothing
        return float(stats.chi2.cdf(df * (shift / critical) ** 2, df))
    return float(stats.nct.sf(critical, df, shift))
