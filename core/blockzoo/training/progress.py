"""A bar with tokens/s and time left, on standard error, so that standard output stays the result's."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

UNITS = {"bits_per_byte": "bits/byte"}


class TokensPerSecond(ProgressColumn):
    """The speed over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} tokens/s", style="cyan", justify="right")


class ProgressBar:
    """A ``Reporter`` that draws one line a run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._figures = ""

    def start(self, name: str, tokens: int, done: int) -> None:
        """A new bar over ``tokens`` tokens, ``done`` of them from before this process."""
        self._figures = ""
        self._progress = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            TokensPerSecond(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            console=self.console,
            speed_estimate_period=30,
        )
        self._task = self._progress.add_task(name, total=tokens, completed=done, note="")
        self._progress.start()

    def step(self, tokens: int, loss: float | None) -> None:
        assert self._progress is not None
        self._progress.update(self._task, completed=tokens)
        if loss is not None:
            self._progress.update(self._task, note=f"loss {loss:.3f}{self._figures}")

    def evaluated(self, figures: Mapping[str, float]) -> None:
        assert self._progress is not None
        self._figures = "".join(f", {value:.3f} {UNITS.get(name, name)}" for name, value in figures.items())
        self._progress.update(self._task, note=self._figures.removeprefix(", "))

    def finish(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
