"""``blockzoo draw A [B ...]``: models side by side as an SVG figure, differences marked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockzoo.checkpoints.atomic import write_file
from blockzoo.cli.output import note
from blockzoo.cli.reading import read_model
from blockzoo.drawing.figure import figure
from blockzoo.drawing.svg import draw
from blockzoo.plugins import host


def command(
    models: Annotated[list[str], typer.Argument(metavar="A [B ...]", help="shipped names, YAML files, checkpoints")],
    out: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", metavar="FILE", help="default: <A>-<B>.svg")
    ] = None,
) -> None:
    """Draw models as published architecture figures do; from the second on, what differs from the first is marked."""
    registry = host().registry
    figures = [figure(read_model(name, registry), registry) for name in models]
    file = Path("-".join(one.name for one in figures) + ".svg") if out is None else out
    write_file(file, draw(figures))
    note(f"wrote {file}")
