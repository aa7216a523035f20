"""What verbs print: tables or one JSON document on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

WIDE = 240
"""Columns where standard output is no terminal: a table in a file isn't cut to a screen."""


def console() -> Console:
    """Standard output for people. Markup is off: messages may hold brackets."""
    width = None if sys.stdout.isatty() else WIDE
    return Console(markup=False, highlight=False, emoji=False, width=width)


def print_json(value: object) -> None:
    """The one document that a verb prints under ``--json``."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def note(text: str) -> None:
    """Progress and remarks: standard error."""
    print(text, file=sys.stderr, flush=True)


def cleaned(text: str) -> str:
    """For a terminal: what could steer it is made visible, as a model may say anything."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False) -> None:
    """One table; with ``numbers`` all columns but the first are right-aligned."""
    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if numbers and index else "left", overflow="fold")
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    out = console()
    out.print(made)


def gigabytes(n: int) -> str:
    """Bytes for people: GB means 10^9."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n} B"
