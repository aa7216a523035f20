"""A report of an experiment: ``report.html``, ``results.json``, ``results.csv`` (arms) and ``runs.csv``.

Everything in it comes from ``Results``, and the same results give the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from blockzoo.checkpoints.atomic import write_file
from blockzoo.experiments.report import exports
from blockzoo.experiments.report.page import page
from blockzoo.experiments.report.plots import plots
from blockzoo.experiments.report.svg import can_draw
from blockzoo.experiments.results import Results

NO_PLOTS = "the report has no plots: they need matplotlib, pip install 'blockzoo[report]'"


@dataclass(frozen=True)
class Written:
    """``html``: the file to open. ``missing``: what the report lacks and how to get it, None where it is whole."""

    html: Path
    missing: str | None


def write(results: Results, folder: Path) -> Written:
    """Write all files into ``folder``. Raises CheckpointError for what the file system refuses."""
    missing = None if can_draw() else NO_PLOTS
    drawn = [] if missing else list(plots(results))
    write_file(folder / "results.json", json.dumps(results.as_json(), indent=1, allow_nan=False) + "\n")
    write_file(folder / "results.csv", exports.arms_csv(results))
    write_file(folder / "runs.csv", exports.runs_csv(results))
    html = folder / "report.html"
    write_file(html, page(results, drawn, missing))
    return Written(html, missing)
