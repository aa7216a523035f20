"""The search for an arm's learning rate: a grid whose best point is an inner one.

Pure: it sees rates and figures, never a run. Whoever conducts the search trains what ``Try`` asks for and asks again,
so a search that was stopped goes on from the figures that are there.

A best rate at an end of the grid is no optimum: the next one might be better still, by any amount. So the grid grows
by factors of two at that end until the best has a worse neighbour on either side. A run that diverged is worse than
every run that didn't.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

from blockzoo.experiments.config import CompletePRate, FixedRate, GridRate, RatePolicy

STEP = 2.0
"""Rates of neighbouring points; a power of two, so that the same rate is the same float however it was reached."""
TIE = 1e-4
"""Figures that differ by less than this share of the best one do not decide between rates."""


@dataclass(frozen=True)
class Try:
    """Not enough is known: train with these rates, then ask again."""

    points: tuple[float, ...]


@dataclass(frozen=True)
class Chosen:
    """The best rate, with a worse one tried on either side."""

    lr: float


@dataclass(frozen=True)
class NoOptimum:
    """The search ended without one. ``reason``: a sentence that says what to do."""

    reason: str


Answer = Try | Chosen | NoOptimum


@dataclass(frozen=True)
class Search:
    """``points``: the rates tried in any case; ``extend``: how many may be added to them at the ends."""

    points: tuple[float, ...]
    extend: int
    lower_is_better: bool = True

    def __post_init__(self) -> None:
        assert self.points
        assert all(0 < point < inf for point in self.points)

    def next(self, tried: Mapping[float, float | None]) -> Answer:
        """What to do after ``tried``: rate -> mean figure over the scouting seeds, None where a run diverged."""
        if missing := tuple(sorted(set(self.points) - tried.keys())):
            return Try(missing)
        rates = sorted(tried)
        losses = [self._loss(tried[rate]) for rate in rates]
        if min(losses) == inf:
            return NoOptimum(
                f"every learning rate diverged ({listed(rates)}): put lower ones into learning_rate.points, lengthen"
                " train.schedule.warmup or clip (train.optimizer.clip)"
            )
        low, high = plateau(losses)
        last = len(rates) - 1
        inner = [index for index in range(low, high + 1) if 0 < index < last]
        if inner:
            return Chosen(rates[inner[(len(inner) - 1) // 2]])  # of two the lower: safer
        wanted = [rates[0] / STEP] * (low == 0) + [rates[-1] * STEP] * (high == last)
        if len(rates) - len(set(self.points)) + len(wanted) > self.extend:
            return NoOptimum(self._at_an_end(rates, low == 0))
        return Try(tuple(wanted))

    def _loss(self, figure: float | None) -> float:
        """A figure to be made small: infinite for a run that diverged."""
        if figure is None or not isfinite(figure):
            return inf
        return figure if self.lower_is_better else -figure

    def _at_an_end(self, rates: list[float], lowest: bool) -> str:
        end, rate, side = ("lowest", rates[0], "lower") if lowest else ("highest", rates[-1], "higher")
        added = len(rates) - len(set(self.points))
        return (
            f"the best learning rate is the {end} of those tried ({rate:g} of {listed(rates)}), {added} of at most"
            f" {self.extend} added: put {side} ones into learning_rate.points or raise learning_rate.extend"
        )


def search(policy: RatePolicy, lr: float, *, lower_is_better: bool = True) -> Search | None:
    """The search that a policy asks for around train.optimizer.lr; None where ``lr`` is the rate without one.

    Under ``completep`` it is the base arm's search; the other arms take what it finds.
    """
    match policy:
        case FixedRate():
            return None
        case GridRate():
            return Search(policy.points or (lr / STEP, lr, lr * STEP), policy.extend, lower_is_better)
        case CompletePRate():
            return Search(policy.points, policy.extend, lower_is_better) if policy.points else None


def plateau(losses: list[float]) -> tuple[int, int]:
    """First and last index of the neighbours around the least loss that are no worse than it by more than a tie."""
    best = min(losses)
    low = high = losses.index(best)
    level = best + TIE * abs(best)
    while low > 0 and losses[low - 1] <= level:
        low -= 1
    while high < len(losses) - 1 and losses[high + 1] <= level:
        high += 1
    return low, high


def listed(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
