"""The same runs cut at equal tokens, equal training FLOPs and equal seconds: many ideas win one and lose another.

A cut is the least that every run reached on an axis, and the metric there is interpolated on each run's evaluations,
linearly in the logarithm of the axis. It shows an unfinished run: where the learning rate had not yet come down, a run
planned to end there would have done better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from blockzoo.experiments.config import StatisticsConfig
from blockzoo.experiments.reading import Point, RunResult
from blockzoo.experiments.statistics import Comparison, compare

ViewAxis = Literal["tokens", "flops", "seconds"]
AXES: tuple[ViewAxis, ...] = ("tokens", "flops", "seconds")
WHOLE = 0.99
"""A run cut beyond this share of its length counts as finished."""
SLACK = 1e-9


@dataclass(frozen=True)
class View:
    """``cut``: arm -> which share of its runs' tokens the cut leaves, on average; ``comparison`` None where there is
    nothing to compare, and ``note`` says why, or what the cut can't say.
    """

    axis: ViewAxis
    budget: float | None
    cut: Mapping[str, float]
    comparison: Comparison | None
    note: str


def views(
    runs: Mapping[str, Sequence[RunResult]],
    baseline: str,
    settings: StatisticsConfig,
    lower_is_better: bool,
    schedules: Mapping[str, str],
) -> list[View]:
    """All three. ``runs``: arm -> its finished verdict runs; ``schedules``: arm -> the type of its schedule."""
    return [view(axis, runs, baseline, settings, lower_is_better, schedules) for axis in AXES]


def view(
    axis: ViewAxis,
    runs: Mapping[str, Sequence[RunResult]],
    baseline: str,
    settings: StatisticsConfig,
    lower_is_better: bool,
    schedules: Mapping[str, str],
) -> View:
    """The comparison at the least ``axis`` that all runs reached."""
    curves = {arm: {run.seed: run.curve for run in of if run.curve} for arm, of in runs.items()}
    curves = {arm: of for arm, of in curves.items() if of}
    if baseline not in curves or len(curves) < 2:
        return View(axis, None, {}, None, "fewer than two arms have finished runs")
    budget = min(getattr(curve[-1], axis) for of in curves.values() for curve in of.values())
    figures, cut, late = {}, {}, []
    for arm, of in curves.items():
        found = {seed: at(curve, axis, budget) for seed, curve in of.items()}
        if any(point is None for point in found.values()):
            late.append(arm)
            continue
        figures[arm] = {seed: point[1] for seed, point in found.items() if point is not None}
        shares = [point[0] / of[seed][-1].tokens for seed, point in found.items() if point is not None]
        cut[arm] = sum(shares) / len(shares)
    notes = []
    if late:
        notes.append(f"{', '.join(late)}: first evaluated after the cut; set train.eval.every to see more of it")
    hurried = [arm for arm, share in cut.items() if share < WHOLE and schedules.get(arm) != "constant"]
    if hurried:
        notes.append(
            f"{', '.join(hurried)}: cut before the learning rate had come down, so runs planned to end here would do"
            " better than this says"
        )
    enough = baseline in figures and len(figures) > 1
    return View(
        axis,
        budget,
        cut,
        compare(figures, baseline, settings, lower_is_better) if enough else None,
        "; ".join(notes),
    )


def at(curve: Sequence[Point], axis: ViewAxis, budget: float) -> tuple[float, float] | None:
    """Tokens and metric of a run when it had spent ``budget``; None before its first evaluation."""
    here = [getattr(point, axis) for point in curve]
    if budget < here[0] * (1 - SLACK):
        return None
    for (low, before), (high, after) in zip(
        zip(here, curve, strict=True), zip(here[1:], curve[1:], strict=True), strict=False
    ):
        if low <= budget < high * (1 - SLACK):
            share = (
                math.log(max(budget, low) / low) / math.log(high / low) if low > 0 else (budget - low) / (high - low)
            )
            return (
                before.tokens + share * (after.tokens - before.tokens),
                before.metric + share * (after.metric - before.metric),
            )
    last = curve[-1] if budget >= here[-1] * (1 - SLACK) else curve[0]
    return last.tokens, last.metric
