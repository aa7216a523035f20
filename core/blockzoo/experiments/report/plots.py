"""The plots of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterator

from blockzoo.experiments.report.cost_plots import cache, experts, parameters
from blockzoo.experiments.report.quality_plots import aspect_ratio, curve, decoding, rates
from blockzoo.experiments.report.scene import Plot, Scene
from blockzoo.experiments.report.verdict_plots import cuts, differences
from blockzoo.experiments.results import Results
from blockzoo.experiments.views import AXES


def plots(results: Results) -> Iterator[Plot]:
    """Those that have something to show."""
    scene = Scene(results)
    found = (
        differences(scene),
        cuts(scene),
        *(curve(scene, axis) for axis in AXES),
        rates(scene),
        aspect_ratio(scene),
        decoding(scene),
        cache(scene),
        parameters(scene),
        experts(scene),
    )
    return (plot for plot in found if plot is not None)
