"""A bar that counts what is done; apart from ``output``, which every verb loads: rich's progress imports slowly."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


def counting_bar() -> Progress:
    """How many of how many, on standard error; nothing where that is no terminal, and gone when it ends."""
    return Progress(
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True, markup=False, highlight=False),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
