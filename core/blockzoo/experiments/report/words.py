"""Results in words and numbers: what a verdict is, in a sentence that says how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from blockzoo.experiments.results import Results
from blockzoo.experiments.statistics import Comparison, Difference, Interval, Sample

AXES = {
    "total": "parameters",
    "non_embedding": "non-embedding parameters",
    "active": "active parameters",
    "flops_per_token": "FLOPs a token",
    "training_flops": "training FLOPs",
    "kv_cache_bytes": "KV cache",
    "weight_bytes": "weight bytes",
    "tokens": "tokens",
    "flops": "training FLOPs",
    "seconds": "seconds of training",
}
NAMED = 4
"""Arms that one sentence names; of more it gives the count."""
MINUS = "\N{MINUS SIGN}"


def headline(results: Results) -> str:
    """The verdict on all arms, in one sentence."""
    record, differences = results.record, results.comparison.differences
    if not differences:
        return f"{record.baseline} is the only arm: there is nothing to compare."
    said = [
        sentence
        for sentence in (
            _are(differences, "better", f"better than {record.baseline}"),
            _are(differences, "worse", f"worse than {record.baseline}"),
            _are(differences, "equal", f"equal to {record.baseline} for all that is of interest"),
            _are(differences, "inconclusive", f"inconclusive against {record.baseline}"),
        )
        if sentence
    ]
    terms = [metric_name(results)]
    if record.equal is not None:
        terms.append(f"at equal {AXES[record.equal.axis]}")
    if results.baseline.tokens is not None:
        terms.append(f"after {short(results.baseline.tokens)} tokens")
    opening = "A demonstration, no verdict to rely on: " if record.demonstration else ""
    return f"{opening}In {', '.join(terms)}: {'; '.join(said)}{_best(results)}."


def difference(results: Results, d: Difference, comparison: Comparison | None = None) -> str:
    """One arm against the baseline: figure, interval, p and seeds."""
    comparison = results.comparison if comparison is None else comparison
    if d.effect is None:
        return "no figures to compare"
    parts = []
    if d.interval is not None:
        parts.append(f"{percent(1 - comparison.level)} interval {interval(d.interval, signs=True)}")
    if d.p_holm is not None:
        parts.append(p_value(d.p_holm))
    parts.append(f"{d.n} {'pairs of seeds' if d.method == 'paired' else 'seed' if d.n == 1 else 'seeds'}")
    return f"{signed(d.effect, d.interval)} {metric_name(results)} ({', '.join(parts)})"


def noise(results: Results) -> str:
    """How much the seed alone moves the baseline's metric."""
    base, name = results.comparison.noise, results.record.baseline
    if base.sigma is None or base.sigma_interval is None:
        return f"The noise between seeds isn't known: {name} has {_count(base.n, 'finished run')}, it takes two."
    low, high = base.sigma_interval.low, base.sigma_interval.high
    return (
        f"Noise: seeds move {name}'s {metric_name(results)} by a standard deviation of {base.sigma:.2g}"
        f" (between {low:.2g} and {high:.2g}, from {base.n} runs)."
    )


def metric_name(results: Results) -> str:
    return results.record.metric.replace("_", " ")


def mean(sample: Sample) -> str:
    """``1.8024 ± 0.0121 (5)``: mean, half the t-interval, number of runs."""
    if sample.mean is None:
        return "none"
    if sample.interval is None:
        return f"{sample.mean:.4g} ({sample.n})"
    return f"{number(sample.mean, sample.interval)} ± {number(sample.interval.half, sample.interval)} ({sample.n})"


def number(value: float, error: Interval | None) -> str:
    """With as many decimals as two digits of the error take; three digits of a value that has no error."""
    half = error.half if error is not None else 0.0
    if not half or not math.isfinite(half):
        return f"{value:.4g}".replace("-", MINUS)
    decimals = min(max(0, 1 - math.floor(math.log10(half))), 8)
    return f"{value:.{decimals}f}".replace("-", MINUS)


def signed(value: float, error: Interval | None) -> str:
    text = number(value, error)
    if value and not text.strip(f"{MINUS}0."):  # far below its error, and yet it has a sign
        text = f"{value:.2g}".replace("-", MINUS)
    return text if text.startswith(MINUS) else f"+{text}"


def interval(of: Interval, *, signs: bool = False) -> str:
    write = signed if signs else number
    return f"{write(of.low, of)} to {write(of.high, of)}"


def p_value(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def short(value: float | None) -> str:
    """A large number with three digits: ``4.1 M``; powers of ten from 10^15 on."""
    if value is None:
        return ""
    for size, unit in ((1e15, None), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value:.3g}" if unit is None else f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _are(differences: Mapping[str, Difference], verdict: str, what: str) -> str:
    found = [d for d in differences.values() if d.verdict == verdict]
    names = [d.arm if d.effect is None else f"{d.arm} ({signed(d.effect, d.interval)})" for d in found]
    if not names:
        return ""
    subject = _listed(names) if len(differences) <= NAMED else f"{len(names)} of {len(differences)} arms"
    return f"{subject} {'is' if len(names) == 1 else 'are'} {what}"


def _best(results: Results) -> str:
    """Which arm is the best of many by its mean."""
    means = {arm.name: arm.sample.mean for arm in results.arms if arm.sample.mean is not None}
    if len(results.comparison.differences) <= NAMED or not means:
        return ""
    best = (min if results.record.lower_is_better else max)(means, key=lambda name: means[name])
    return f"; the best mean is {best}'s"


def _listed(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def _count(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"
