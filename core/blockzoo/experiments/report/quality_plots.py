"""Plots of the metric against what was spent, tried and built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockzoo.experiments.report import words
from blockzoo.experiments.report.scene import Plot, Scene, fit, logarithmic, mean
from blockzoo.experiments.views import ViewAxis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FROM = 0.25
"""The share of a run that curves leave out: losses fall so far at first that nothing could be told apart later."""


def curve(scene: Scene, axis: ViewAxis) -> Plot | None:
    """The metric on the way: a thin line for each run, a thick one for the mean."""
    runs = {arm.name: [run.curve for run in arm.runs if run.curve] for arm in scene.results.arms}
    if not any(len(curve) > 1 for of in runs.values() for curve in of):
        return None

    def paint(axes: Axes) -> None:
        for arm, of in runs.items():
            look = scene.looks[arm]
            for curve in of:
                x = [getattr(point, axis) for point in curve]
                axes.plot(x, [p.metric for p in curve], color=look.colour, linewidth=0.5, alpha=0.5)
            whole = [curve for curve in of if len(curve) == max(map(len, of))]
            if whole:
                x = [sum(getattr(p, axis) for p in points) / len(points) for points in zip(*whole, strict=True)]
                y = [sum(p.metric for p in points) / len(points) for points in zip(*whole, strict=True)]
                axes.plot(x, y, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=3)
        late = [p for of in runs.values() for curve in of for p in curve if p.tokens >= FROM * curve[-1].tokens]
        logarithmic(axes, "x", words.short)
        fit(axes, [getattr(p, axis) for p in late], [p.metric for p in late])
        axes.set_xlabel(words.AXES[axis])
        axes.set_ylabel(scene.metric)

    return scene.plot(
        f"curve-{axis}",
        f"{scene.metric.capitalize()} against {words.AXES[axis]}",
        f"Held out; {scene.better}. From a quarter of a run on: a thin line for each, a thick one for the mean.",
        paint,
        scene.means(),
    )


def rates(scene: Scene) -> Plot | None:
    """The scouting runs: metric against learning rate. Crosses on top are rates at which training diverged."""
    scouts = {arm.name: arm.scouts for arm in scene.results.arms if arm.scouts}
    if not any(run.metric is not None for of in scouts.values() for run in of):
        return None

    def paint(axes: Axes) -> None:
        for arm, of in scouts.items():
            look, tried = scene.looks[arm], sorted({run.lr for run in of if run.metric is not None})
            means = {lr: mean([r.metric for r in of if r.lr == lr and r.metric is not None]) for lr in tried}
            axes.plot(tried, list(means.values()), color=look.colour, linestyle=look.dash, marker=look.marker)
            lost = sorted({run.lr for run in of if run.diverged})
            axes.plot(
                lost, [1.0] * len(lost), "x", color=look.colour, transform=axes.get_xaxis_transform(), clip_on=False
            )
            chosen = scene.results.arm(arm).record.lr
            if chosen in means:
                axes.plot([chosen], [means[chosen]], "o", markersize=11, fillstyle="none", color=look.colour)
        axes.set_xscale("log", base=2)
        every = sorted({run.lr for of in scouts.values() for run in of})
        axes.set_xticks(every, [f"{lr:.3g}" for lr in every], rotation=40 if len(every) > 6 else 0)
        axes.set_xlabel("learning rate")
        axes.set_ylabel(scene.metric)

    return scene.plot(
        "rates",
        "Learning rates tried",
        f"{scene.better.capitalize()}. Scouting runs, of other seeds than the verdict's. A ring: the rate that was"
        " taken; a cross on top: diverged.",
        paint,
        "; ".join(f"{arm.name}: {arm.record.lr:g}" for arm in scene.results.arms if arm.record.lr is not None),
    )


def aspect_ratio(scene: Scene) -> Plot | None:
    """A dot for each seed, an interval for each arm."""
    shown = [arm for arm in scene.results.arms if arm.sample.n and arm.account.get("aspect_ratio")]
    if len({arm.account["aspect_ratio"] for arm in shown}) < 2:
        return None

    def paint(axes: Axes) -> None:
        for arm in shown:
            scene.against(axes, arm, arm.account["aspect_ratio"])
        axes.set_xscale("log")
        ticks = sorted({round(arm.account["aspect_ratio"], 1) for arm in shown})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks], rotation=40 if len(ticks) > 6 else 0)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("width / depth")
        axes.set_ylabel(scene.metric)

    return scene.plot(
        "aspect-ratio",
        f"{scene.metric.capitalize()} against aspect ratio",
        f"{scene.better.capitalize()}. A dot for each seed; the bar is the interval of the mean.",
        paint,
        "; ".join(f"{a.name}, {a.account['aspect_ratio']:.3g}: {words.mean(a.sample)}" for a in shown),
    )


def decoding(scene: Scene) -> Plot | None:
    """Quality against the speed that it is had at."""
    shown = [arm for arm in scene.results.arms if arm.sample.n and arm.decode_tokens_per_second]
    if len(shown) < 2:
        return None

    def paint(axes: Axes) -> None:
        for arm in shown:
            assert arm.decode_tokens_per_second is not None
            scene.against(axes, arm, arm.decode_tokens_per_second)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("decoded tokens a second, one sequence")
        axes.set_ylabel(scene.metric)

    return scene.plot(
        "decoding",
        f"{scene.metric.capitalize()} against decoding speed",
        f"{scene.better.capitalize()}; faster is to the right. Speeds are this machine's.",
        paint,
        "; ".join(f"{a.name}, {a.decode_tokens_per_second:,.0f}: {words.mean(a.sample)}" for a in shown),
    )
