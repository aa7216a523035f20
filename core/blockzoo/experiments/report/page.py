"""The report as one HTML file: everything inside, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from blockzoo.experiments.report import words
from blockzoo.experiments.report.scene import GLYPHS, Plot
from blockzoo.experiments.report.svg import SERIES
from blockzoo.experiments.report.table import rows
from blockzoo.experiments.results import Results
from blockzoo.experiments.views import View

VERDICTS = {
    "better": "▲ better",
    "worse": "▼ worse",
    "equal": "= equal",
    "inconclusive": "? inconclusive",
}


def page(results: Results, plots: Sequence[Plot], missing: str | None) -> str:
    """``missing``: why there are no plots."""
    environment = Environment(
        loader=PackageLoader("blockzoo.experiments.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=results.record.name,
        record=results.record,
        headline=words.headline(results),
        noise=words.noise(results),
        notes=results.notes,
        verdicts=[_verdict(results, arm.name) for arm in results.arms if arm.difference is not None],
        groups=[(group, list(of)) for group, of in groupby(rows(results), key=lambda row: row.group)],
        arms=results.arms,
        looks={
            arm.name: {"colour": index % len(SERIES), "glyph": GLYPHS[index % len(GLYPHS)]}
            for index, arm in enumerate(results.arms)
        },
        views=[_view(results, view) for view in results.views],
        plots=[{**vars(plot), "svg": Markup(plot.svg)} for plot in plots],
        missing=missing,
        runs=[run for arm in results.arms for run in (*arm.scouts, *arm.runs)],
        metric=words.metric_name(results),
        environment=[(key, _plain(value)) for key, value in sorted(results.record.environment.items())],
        words=words,
    )


def _verdict(results: Results, name: str) -> dict[str, Any]:
    d = results.comparison.differences[name]
    return {
        "arm": name,
        "verdict": d.verdict,
        "shown": VERDICTS[d.verdict],
        "figures": words.difference(results, d),
        "reason": d.reason,
        "advice": d.advice,
        "equal": None if d.p_equal is None or d.verdict != "equal" else words.p_value(d.p_equal),
    }


def _view(results: Results, view: View) -> dict[str, Any]:
    """One line for each arm of a view: how much of its runs is left, its metric there, its difference."""
    lines = []
    for arm in results.arms:
        if view.comparison is None or arm.name not in view.comparison.arms:
            continue
        d = view.comparison.differences.get(arm.name)
        lines.append(
            {
                "arm": arm.name,
                "share": f"{100 * view.cut[arm.name]:.0f} %",
                "metric": words.mean(view.comparison.arms[arm.name]),
                "difference": "" if d is None or d.effect is None else words.signed(d.effect, d.interval),
                "interval": "" if d is None or d.interval is None else words.interval(d.interval, signs=True),
                "p": "" if d is None or d.p_holm is None else f"{d.p_holm:.2g}",
                "verdict": "" if d is None else d.verdict,
            }
        )
    return {
        "name": f"Equal {words.AXES[view.axis]}",
        "budget": words.short(view.budget),
        "lines": lines,
        "note": view.note,
    }


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
