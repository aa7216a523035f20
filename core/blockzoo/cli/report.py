"""``blockzoo report``: make the report of an experiment again, from its record and its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockzoo.cli.output import note, print_json
from blockzoo.experiments.report import words, write
from blockzoo.experiments.results import Results, collect


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="an experiment's folder, as compare printed it")],
    as_json: Annotated[bool, typer.Option("--json", help="print the results as one JSON document")] = False,
) -> None:
    """Write report.html, results.json, results.csv and runs.csv into an experiment's folder. Nothing is trained."""
    results = collect(folder)
    html = write_report(results, folder)
    if as_json:
        print_json({"folder": str(folder), **results.as_json()})
    else:
        print(words.headline(results))
        print(f"report: {html}")


def write_report(results: Results, folder: Path) -> Path:
    """Write it and say what it lacks; the file to open."""
    written = write(results, folder)
    if written.missing is not None:
        note(written.missing)
    return written.html
