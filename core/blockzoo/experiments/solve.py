"""Solving for a matched budget: knobs are turned, one after another, until a number is as near as it gets.

Only ``measure`` is asked, so any axis and any block will do. Numbers should go one way as a knob is turned; where they
don't, a crossing is still found if one is met on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

from blockzoo.config import dump, load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import BlockzooError, ConfigError, Problem
from blockzoo.experiments.knobs import NAMES, Draft, Knob, Source, make_knob

Measure = Callable[[ModelConfig], int]

SCANNED = 64
"""How far the next value that a model accepts is looked for: a cycle of layers, a divisor of the heads."""
UNMOVED = 8
"""Doublings without any effect after which a knob is taken to have none."""


@dataclass(frozen=True)
class Solved:
    """A model as near to the target as its knobs bring it. ``turned``: knob -> its value."""

    config: ModelConfig
    turned: dict[str, float]
    number: int
    target: float

    @property
    def residual(self) -> float:
        """The number over the target, less one."""
        return self.number / self.target - 1


def solve(
    source: Source, knobs: Sequence[Knob], measure: Measure, target: float, *, tolerance: float, axis: str
) -> Solved:
    """Turn the knobs in order, each as near to the target as it gets.

    Raises ConfigError, with the nearest number reached and what else could be turned, for a residual above tolerance.
    """
    draft = Draft(source)
    number = measure(draft.config())
    turned: dict[str, float] = {}
    searches: list[_Search] = []
    for knob in knobs:
        search = _Search(draft, knob, measure, target)
        value = search.best()
        if abs(search.tried[value] - target) < abs(number - target):
            draft, number = knob.turned(draft, value), search.tried[value]
        turned[knob.name] = knob.now(draft)
        searches.append(search)
    solved = Solved(draft.config(), turned, number, target)
    if abs(solved.residual) > tolerance:
        raise ConfigError([Problem("", _unsolved(solved, draft, searches, measure, tolerance, axis))])
    load_config(dump(solved.config, source.registry), registry=source.registry)  # what comes out must be loadable
    return solved


@dataclass
class _Search:
    """One knob's values, outward from where it stands until the target is passed, then by halves.

    ``tried``: value -> number, only of values that the model accepts. ``refusal``: the first reason against one.
    """

    draft: Draft
    knob: Knob
    measure: Measure
    target: float
    tried: dict[int, int] = field(default_factory=dict)
    refusal: str = ""
    unit: int = field(init=False)

    def best(self) -> int:
        """The value nearest to the target; of equals the one nearest to where the knob stands."""
        self.unit, now = self.knob.unit(self.draft), self.knob.now(self.draft)
        self.tried[now] = self.measure(self.draft.config())
        start = max(1, round(now / self.unit))
        gap = self._gap(start)
        gap = self.tried[now] - self.target if gap is None else gap
        for way in (1, -1):
            if bracket := self._outward(start, way, gap):
                self._halve(*sorted(bracket))
                break
        return min(self.tried, key=lambda value: (abs(self.tried[value] - self.target), abs(value - now)))

    def moves(self) -> bool:
        return len(set(self.tried.values())) > 1

    def _gap(self, index: int) -> float | None:
        """The number at ``index`` units less the target, None where the model doesn't accept that value."""
        value = index * self.unit
        if value not in self.tried:
            if not self.unit <= value <= self.knob.most:
                return None
            try:
                self.tried[value] = self.measure(self.knob.turned(self.draft, value).config())
            except ConfigError as error:
                self.refusal = self.refusal or f"{self.knob.name} {value}: {error.problems[0].message}"
                return None
        return self.tried[value] - self.target

    def _accepted(self, indices: Iterator[int]) -> tuple[int, float] | None:
        """The first of these that the model accepts, and its gap."""
        for index in indices:
            gap = self._gap(index)
            if gap is not None:
                return index, gap
        return None

    def _outward(self, start: int, way: int, gap: float) -> tuple[int, int] | None:
        """Steps that double, until two neighbours have the target between them."""
        last, step, unmoved = start, 1, 0
        while start + way * step >= 1 and unmoved < UNMOVED:
            first = start + way * step
            found = self._accepted(iter(range(first, max(0, first + way * SCANNED), way)))
            if found is None:
                return None
            index, here = found
            if here * gap <= 0:
                return last, index
            if abs(here) > abs(gap):
                return None  # the wrong way
            unmoved = unmoved + 1 if here == gap else 0
            last, gap, step = index, here, max(2 * step, abs(index - start) + 1)
        if way < 0 and last > 1 and (at_least := self._gap(1)) is not None and at_least * gap <= 0:
            return last, 1
        return None

    def _halve(self, low: int, high: int) -> None:
        sign = self._gap(low) or 0.0
        while high - low > 1:
            middle = (low + high) // 2
            around = (middle + way * off for off in range(SCANNED) for way in (1, -1))
            found = self._accepted(index for index in around if low < index < high)
            if found is None:
                return
            index, gap = found
            if gap * sign > 0:
                low = index
            else:
                high = index


def _unsolved(
    solved: Solved, draft: Draft, searches: Sequence[_Search], measure: Measure, tolerance: float, axis: str
) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in solved.turned.items())
    said = (
        f"{axis} can't be brought to {solved.target:,.0f} within {tolerance:.2%}: the nearest is {solved.number:,}"
        f" ({solved.residual:+.2%}){f' with {values}' if values else ''}"
    )
    for search in searches:
        if not search.moves():
            reason = f" ({search.refusal})" if search.refusal else ""
            said += f"; {search.knob.name} doesn't move it{reason}"
    finer = sorted(_other_knobs(draft, solved.turned, measure, solved), key=lambda found: found[1])
    if finer:
        return said + "; add " + " or ".join(f"{name} (a step is {step:.2%})" for name, step in finer)
    return said + "; give a greater tolerance, a smaller multiple, or a dotted key of the model"


def _other_knobs(draft: Draft, turned: Container[str], measure: Measure, solved: Solved) -> Iterator[tuple[str, float]]:
    """Named knobs that aren't in use and move the number, and how far one step of each does, of the target."""
    for name in NAMES:
        if name in turned:
            continue
        try:
            knob = make_knob(name)
            step = measure(knob.turned(draft, knob.now(draft) + knob.unit(draft)).config()) - solved.number
        except BlockzooError:
            continue
        if step:
            yield name, abs(step) / solved.target
