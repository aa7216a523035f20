"""What all plots of a report share: how arms look, what the metric is called, and axes drawn alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blockzoo.experiments.report import words
from blockzoo.experiments.report.svg import SERIES, draw
from blockzoo.experiments.results import ArmResult, Results
from blockzoo.experiments.statistics import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GLYPHS = "●■▲◆▼✚✖★"
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Plot:
    """A drawing with its title and caption; ``svg`` is an element."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Look:
    """How an arm looks in every plot."""

    colour: str
    marker: str
    dash: str

    @classmethod
    def of(cls, index: int) -> Look:
        n = len(SERIES)
        return cls(SERIES[index % n], MARKERS[index % n], DASHES[index // n % len(DASHES)])


class Scene:
    """One set of results to be drawn; ``looks``: arm -> how it looks."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.metric = words.metric_name(results)
        self.better = "lower is better" if results.record.lower_is_better else "higher is better"
        self.looks = {arm.name: Look.of(index) for index, arm in enumerate(results.arms)}

    def plot(
        self,
        name: str,
        title: str,
        caption: str,
        paint: Callable[[Axes], None],
        description: str,
        height: float = 3.0,
    ) -> Plot:
        """``paint`` draws into axes; ``description`` says in words and figures what there is to see."""
        return Plot(name, title, caption, draw(name, title, description, paint, height))

    def against(self, axes: Axes, arm: ArmResult, x: float) -> None:
        """An arm's metric at ``x``: a dot for each seed, the mean with its interval."""
        look, sample = self.looks[arm.name], arm.sample
        values = [run.metric for run in arm.runs if run.metric is not None]
        axes.plot([x] * len(values), values, ".", color=look.colour, alpha=0.5, markersize=5)
        assert sample.mean is not None
        half = [[sample.interval.half]] if sample.interval is not None else None
        axes.errorbar([x], [sample.mean], yerr=half, fmt=look.marker, color=look.colour, capsize=3, markersize=6)

    def means(self) -> str:
        """Every arm's metric, for those who can't see a plot."""
        return "; ".join(f"{arm.name}: {words.mean(arm.sample)} in the end" for arm in self.results.arms)


def draw_range(axes: Axes, d: Difference, y: float, colour: str, *, thick: bool) -> None:
    """A difference's interval as a line at height ``y``; with ``thick`` the bootstrap's below it."""
    if d.interval is not None:
        axes.plot([d.interval.low, d.interval.high], [y, y], color=colour, linewidth=3 if thick else 1.4, alpha=0.6)
    if thick and d.bootstrap is not None:
        axes.plot([d.bootstrap.low, d.bootstrap.high], [y - 0.2, y - 0.2], color=colour, linewidth=1)


def logarithmic(axes: Axes, which: Literal["x", "y"], show: Callable[[float], str]) -> None:
    """A logarithmic axis with few ticks, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def fit(axes: Axes, x: list[float], y: list[float]) -> None:
    """Show these points, with a margin."""
    margin = 0.04 * (max(y) - min(y))
    if margin:
        axes.set_ylim(min(y) - margin, max(y) + margin)
    if min(x) < max(x):
        axes.set_xlim(min(x) * (min(x) / max(x)) ** 0.04, max(x) * (max(x) / min(x)) ** 0.04)


def ranks(n: int) -> list[float]:
    """Where the first to the n-th of n are between 0 and 100 %."""
    return [100 * (i + 0.5) / n for i in range(n)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def cut_name(name: str) -> str:
    """Short enough for an axis; names that a grid made differ at their ends."""
    return name if len(name) <= 18 else f"{name[:7]}…{name[-10:]}"
