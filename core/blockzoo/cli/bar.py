"""A bar that counts what is done; apart from ``output``, which every verb loads: rich's progress imports slowly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def megabytes(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes: the function to tell of those done and those in all."""
    with counting_bar() as bar:
        task = bar.add_task(f"MB of {what}", total=None)
        yield lambda done, total: bar.update(task, completed=done // 10**6, total=total // 10**6)
