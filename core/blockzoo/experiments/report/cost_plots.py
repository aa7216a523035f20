"""Plots of what models cost: cache, parameters, and how even the experts are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockzoo.experiments.report.scene import Plot, Scene, cut_name, logarithmic, mean, ranks
from blockzoo.experiments.report.svg import INK, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = ("embedding", "unembedding", "mixer", "ffn", "other")


def cache(scene: Scene) -> Plot | None:
    """What a sequence keeps as it grows."""
    shown = {arm.name: arm.account["kv_cache_bytes"] for arm in scene.results.arms}
    if not any(any(of.values()) for of in shown.values()):
        return None

    def paint(axes: Axes) -> None:
        for arm, of in shown.items():
            look, x = scene.looks[arm], [int(context) for context in of]
            axes.plot(x, [n / 1e6 for n in of.values()], color=look.colour, linestyle=look.dash, marker=look.marker)
        axes.set_xscale("log", base=2)
        logarithmic(axes, "y", "{:g}".format)
        axes.set_xticks(x, [f"{n // 1024}k" for n in x])
        axes.set_xlabel("tokens of context")
        axes.set_ylabel("KV cache, MB")

    return scene.plot(
        "cache",
        "KV cache against context",
        "One sequence in bfloat16, exact from the configs.",
        paint,
        "; ".join(f"{arm}: " + ", ".join(f"{n:,} bytes at {c}" for c, n in of.items()) for arm, of in shown.items()),
    )


def parameters(scene: Scene) -> Plot:
    """Where the parameters are."""
    arms = scene.results.arms

    def paint(axes: Axes) -> None:
        left = [0.0] * len(arms)
        for index, group in enumerate(GROUPS):
            sizes = [arm.account["parameters"][group] / 1e6 for arm in reversed(arms)]
            axes.barh(range(len(arms)), sizes, left=left, color=SERIES[index], label=group, height=0.6)
            left = [a + b for a, b in zip(left, sizes, strict=True)]
        axes.set_yticks(range(len(arms)), [cut_name(arm.name) for arm in reversed(arms)])
        axes.set_xlabel("million parameters")
        axes.figure.legend(loc="outside upper center", ncols=3, columnspacing=1, handlelength=1)

    return scene.plot(
        "parameters",
        "Where the parameters are",
        "Tied embeddings count once, as embedding.",
        paint,
        "; ".join(f"{a.name}: " + ", ".join(f"{g} {a.account['parameters'][g]:,}" for g in GROUPS) for a in arms),
        height=1.4 + 0.36 * len(arms),
    )


def experts(scene: Scene) -> Plot | None:
    """How even routers are: experts by their load, busiest first."""
    shown = {arm.name: arm.expert_load for arm in scene.results.arms if arm.expert_load}
    if not shown:
        return None

    def paint(axes: Axes) -> None:
        for arm, of in shown.items():
            look = scene.looks[arm]
            ranked = [sorted((share * len(load) for share in load), reverse=True) for load in of.values()]
            for load in ranked:
                axes.plot(ranks(len(load)), load, color=look.colour, linewidth=0.6, alpha=0.5)
            alike = [load for load in ranked if len(load) == len(ranked[0])]
            middle = [mean(list(shares)) for shares in zip(*alike, strict=True)]
            axes.plot(ranks(len(middle)), middle, color=look.colour, linestyle=look.dash, marker=look.marker)
        axes.axhline(1, color=INK, linewidth=0.8)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("experts by load, busiest first, %")
        axes.set_ylabel("load over an even share")

    return scene.plot(
        "experts",
        "Load of the experts",
        "On held-out tokens, each arm's first run: a thin line for each layer, a thick one for the mean; 1: even.",
        paint,
        "; ".join(
            f"{arm}: busiest {max(max(load) * len(load) for load in of.values()):.2f}, idlest"
            f" {min(min(load) * len(load) for load in of.values()):.2f} of an even share"
            for arm, of in shown.items()
        ),
    )
