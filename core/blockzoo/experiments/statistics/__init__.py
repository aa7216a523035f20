"""Verdicts: arm -> seed -> figure in, better, worse, equal or inconclusive out, with what would change it.

Arms that share seeds saw the same data in the same order, so they are compared seed by seed (paired); arms that share
fewer than two are compared as they are (Welch). The t-test decides, Holm-corrected over the arms; see ``samples`` for
the intervals and ``power`` for the counts of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from blockzoo.experiments.config import StatisticsConfig
from blockzoo.experiments.statistics.power import MOST, detectable, power, power_apart, seeds_needed
from blockzoo.experiments.statistics.samples import Interval, Sample, bootstrap, describe, deviation
from blockzoo.experiments.statistics.significance import Test, holm, paired, welch

__all__ = ["MOST", "Comparison", "Difference", "Interval", "Sample", "Verdict", "compare"]

Figures = Mapping[int, float]
Verdict = Literal["better", "worse", "equal", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """An arm less the baseline. What can't be said is None.

    ``n``: pairs, or the smaller arm's seeds. ``effect`` with ``interval`` (t) and ``bootstrap`` (BCa), each alone at
    the level; ``p``, and ``p_holm`` corrected for all arms. ``detectable``: the smallest difference that these seeds
    would have found. ``more_seeds``: how many more may decide it. ``p_equal``: of a difference of ``smallest_effect``
    or more. ``reason`` says why the verdict is what it is, ``advice`` what would change it.
    """

    arm: str
    method: Literal["paired", "welch", "none"]
    n: int
    effect: float | None = None
    interval: Interval | None = None
    bootstrap: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    p_equal: float | None = None
    detectable: float | None = None
    more_seeds: int | None = None
    verdict: Verdict = "inconclusive"
    reason: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Comparison:
    """``arms``: each arm's figures by themselves; the baseline's ``sigma`` is the noise. ``differences``: the others
    against it.
    """

    baseline: str
    level: float
    arms: Mapping[str, Sample]
    differences: Mapping[str, Difference]

    @property
    def noise(self) -> Sample:
        return self.arms[self.baseline]


def compare(
    figures: Mapping[str, Figures], baseline: str, settings: StatisticsConfig, lower_is_better: bool = True
) -> Comparison:
    """Every arm against ``baseline``. A figure that isn't finite is a run that diverged."""
    finite = {arm: {s: x for s, x in of.items() if math.isfinite(x)} for arm, of in figures.items()}
    samples = {
        arm: describe(
            list(values.values()),
            level=settings.level,
            resamples=settings.resamples,
            seed=settings.seed,
            diverged=sorted(figures[arm].keys() - values.keys()),
        )
        for arm, values in finite.items()
    }
    others = [arm for arm in figures if arm != baseline]
    pairs = {arm: _Pair.of(finite[arm], finite[baseline]) for arm in others}
    tested = [arm for arm in others if pairs[arm].test is not None]
    raw = np.array([float(pair.test.p) for arm in tested if (pair := pairs[arm]).test is not None])
    corrected = dict(zip(tested, holm(raw).tolist() if tested else [], strict=True))
    differences = {
        arm: pairs[arm].judge(arm, baseline, samples, corrected.get(arm), len(tested), settings, lower_is_better)
        for arm in others
    }
    return Comparison(baseline, settings.level, samples, differences)


@dataclass(frozen=True)
class _Pair:
    """Two arms' figures, as the method of comparing them wants them."""

    method: Literal["paired", "welch", "none"]
    n: int
    values: tuple[np.ndarray, ...]  # the differences, or the arm's figures and the baseline's
    effect: float | None
    test: Test | None

    @classmethod
    def of(cls, arm: Figures, base: Figures) -> _Pair:
        shared = sorted(arm.keys() & base.keys())
        if len(shared) >= 2:
            d = np.array([arm[seed] - base[seed] for seed in shared])
            test = paired(d)
            return cls("paired", len(d), (d,), float(test.effect), test)
        x, y = np.array(list(arm.values())), np.array(list(base.values()))
        n = min(len(x), len(y))
        if n >= 2:
            test = welch(x, y)
            return cls("welch", n, (x, y), float(test.effect), test)
        return cls("none", n, (x, y), float(x.mean() - y.mean()) if n else None, None)

    def power(self, effect: float, n: int, level: float) -> float:
        if self.method == "paired":
            return power(effect, deviation(self.values[0]), n, level)
        return power_apart(effect, (deviation(self.values[0]), deviation(self.values[1])), n, level)

    def judge(
        self,
        arm: str,
        baseline: str,
        samples: Mapping[str, Sample],
        p_holm: float | None,
        n_tests: int,
        settings: StatisticsConfig,
        lower_is_better: bool,
    ) -> Difference:
        if self.test is None or p_holm is None:
            return self._unmeasured(arm, baseline, samples)
        assert self.effect is not None
        half = float(self.test.half_width(settings.level))
        interval = None if bool(self.test.still) else Interval(self.effect - half, self.effect + half)
        found: dict[str, object] = {
            "effect": self.effect,
            "interval": interval,
            "bootstrap": bootstrap(self.values, level=settings.level, resamples=settings.resamples, seed=settings.seed),
            "p": float(self.test.p),
            "p_holm": p_holm,
        }
        level = settings.level / n_tests  # what Holm asks of the first: after more seeds the order may be another
        within = settings.smallest_effect
        p_equal = min(1.0, float(self.test.p_equal(within)) * n_tests) if within > 0 else None
        counts: dict[str, object] = {"p_equal": p_equal}
        if interval is not None:
            scale = half / 2
            counts["detectable"] = detectable(lambda e: self.power(e, self.n, level), settings.power, scale)
        said = self._verdict(arm, baseline, samples, settings, lower_is_better, p_holm, p_equal, level, interval)
        return Difference(arm, self.method, self.n, **{**found, **counts, **said})  # type: ignore[arg-type]

    def _unmeasured(self, arm: str, baseline: str, samples: Mapping[str, Sample]) -> Difference:
        counts = {name: samples[name].n for name in (arm, baseline)}
        empty = [name for name, n in counts.items() if n == 0]
        if empty:
            lost = [name for name in empty if samples[name].diverged]
            reason = f"no run of {' or '.join(empty)} gave a figure" + (": all diverged" if lost == empty else "")
            return Difference(
                arm, "none", 0, reason=reason, advice="finished runs: mend what failed, and give the same command again"
            )
        single = [name for name, n in counts.items() if n == 1]
        reason = f"{' and '.join(single)} {'have' if len(single) > 1 else 'has'} one seed: noise can't be measured"
        return Difference(
            arm, "none", self.n, self.effect, reason=reason, advice="run at least 3 seeds, such as seeds: [0, 1, 2]"
        )

    def _verdict(
        self,
        arm: str,
        baseline: str,
        samples: Mapping[str, Sample],
        settings: StatisticsConfig,
        lower_is_better: bool,
        p_holm: float,
        p_equal: float | None,
        level: float,
        interval: Interval | None,
    ) -> dict[str, object]:
        assert self.effect is not None
        within, real = settings.smallest_effect, p_holm <= settings.level
        if p_equal is not None and p_equal <= settings.level:
            small = " (there is one, too small to be of interest)" if real else ""
            reason = f"the difference is below {within:g}, the smallest that is of interest{small}"
            return {"verdict": "equal", "reason": reason, "advice": "only a smaller statistics.smallest_effect"}
        if real:
            verdict = "better" if (self.effect < 0) == lower_is_better else "worse"
            flattered = arm if verdict == "better" else baseline
            if samples[flattered].diverged:
                reason = (
                    f"{arm} looks {verdict}, but only beside the runs of {flattered} that didn't diverge"
                    f" ({len(samples[flattered].diverged)} did)"
                )
                return {"verdict": "inconclusive", "reason": reason, "advice": "a rate at which no run diverges"}
            return {"verdict": verdict, "reason": "", "advice": _doubts(verdict, self.n)}
        if interval is None:
            return self._still()
        target = max(abs(self.effect), within)
        needed = None if target == 0 else seeds_needed(lambda n: self.power(target, n, level), settings.power)
        if needed is None:
            reason = (
                f"a difference of {target:.2g} would need more than {MOST} seeds; as far as these show, the arms are"
                f" equal within {interval.farthest:.2g}"
            )
            return {"reason": reason, "advice": "not more seeds: another budget, size or data"}
        more = max(1, needed - self.n)
        what = f"{target:.2g}, the smallest of interest" if target > abs(self.effect) else f"{target:.2g}, as measured"
        unit = "pairs" if self.method == "paired" else "seeds"
        return {
            "more_seeds": more,
            "reason": f"the difference is within the noise of {self.n} {unit}",
            "advice": f"about {more} more seed{'s'[: more > 1]} would show a difference of {what}",
        }

    def _still(self) -> dict[str, object]:
        if self.effect == 0:
            return {"reason": "every pair is the same to the last bit", "advice": "nothing: the arms compute the same"}
        return {
            "reason": f"{self.n} seeds differ by exactly the same amount, too few to exclude chance",
            "advice": "six seeds: a test of signs needs as many at a level of 0.05",
        }


def _doubts(verdict: str, n: int) -> str:
    if n == 2:
        return "a third seed: two alone trust wholly in the figures being normal"
    return f"{'another' if n > 2 else 'a'} size, budget, data or learning rate: the verdict holds for these"
