"""Plots of verdicts: differences with their intervals, whole runs and runs cut at equal budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockzoo.experiments.report import words
from blockzoo.experiments.report.scene import Plot, Scene, cut_name, draw_range
from blockzoo.experiments.report.svg import INK, SERIES
from blockzoo.experiments.views import AXES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def differences(scene: Scene) -> Plot | None:
    """Each arm less the baseline: t-interval thick, bootstrap thin."""
    shown = [d for d in scene.results.comparison.differences.values() if d.effect is not None]
    if not shown:
        return None

    def paint(axes: Axes) -> None:
        for row, d in enumerate(reversed(shown)):
            look = scene.looks[d.arm]
            draw_range(axes, d, row, look.colour, thick=True)
            assert d.effect is not None
            axes.plot([d.effect], [row], look.marker, color=look.colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [cut_name(d.arm) for d in reversed(shown)])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"{scene.metric}, less {cut_name(scene.results.record.baseline)}'s")

    return scene.plot(
        "differences",
        f"Difference to {scene.results.record.baseline}",
        f"{scene.better.capitalize()}. Thick: t-interval; thin: bootstrap; the line: {scene.results.record.baseline}",
        paint,
        "; ".join(f"{d.arm} {words.difference(scene.results, d)}: {d.verdict}" for d in shown),
        height=1.1 + 0.36 * len(shown),
    )


def cuts(scene: Scene) -> Plot | None:
    """The three views: the same difference at equal tokens, FLOPs and seconds."""
    shown = [view for view in scene.results.views if view.comparison is not None]
    arms = [arm.name for arm in scene.results.arms if arm.difference is not None]
    if not shown:
        return None
    markers = dict(zip(AXES, "os^", strict=True))

    def paint(axes: Axes) -> None:
        for row, arm in enumerate(reversed(arms)):
            for place, view in enumerate(shown):
                assert view.comparison is not None
                d = view.comparison.differences.get(arm)
                if d is None or d.effect is None:
                    continue
                y, colour = row + 0.22 * (1 - place), SERIES[AXES.index(view.axis)]
                draw_range(axes, d, y, colour, thick=False)
                label = f"equal {words.AXES[view.axis]}" if row == 0 else None
                axes.plot([d.effect], [y], markers[view.axis], color=colour, label=label)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(arms)), [cut_name(arm) for arm in reversed(arms)])
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"{scene.metric}, less {cut_name(scene.results.record.baseline)}'s")
        axes.figure.legend(loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)

    return scene.plot(
        "views",
        "Three views of the same runs",
        f"{scene.better.capitalize()}. Runs cut at the least tokens, training FLOPs and seconds that all reached.",
        paint,
        "; ".join(
            f"equal {words.AXES[view.axis]}: "
            + ", ".join(f"{d.arm} {words.difference(scene.results, d)}" for d in view.comparison.differences.values())
            for view in shown
            if view.comparison is not None
        ),
        height=1.3 + 0.5 * len(arms),
    )
