"""Watching an experiment: a live table on a terminal, lines elsewhere, always on standard error.

Runs say nothing themselves: what they do is read from their folders, a few times a second.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from blockzoo.experiments.arm_plan import RunPlan
from blockzoo.experiments.conduct import Watch
from blockzoo.experiments.worker import RunEnd
from blockzoo.training.folder import RunFolder
from blockzoo.training.progress import UNITS

TAIL = 1 << 14
"""Bytes of a metrics file that are looked at: many lines, whatever is in them."""
REFRESHES = 4
"""A second."""
SPEED_OVER = 20.0
"""Seconds that a run's speed is measured over."""

State = Literal["waiting", "running", "done", "failed", "interrupted"]
STYLES: dict[State, str] = {"waiting": "dim", "done": "green", "failed": "red", "interrupted": "yellow", "running": ""}


@dataclass
class Line:
    """One run as it is seen from outside. ``speed`` in tokens/s, over what was seen of it."""

    plan: RunPlan
    folder: RunFolder
    state: State = "waiting"
    tokens: int = 0
    loss: float | None = None
    figure: tuple[str, float] | None = None
    speed: float | None = None
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def total(self) -> int:
        train = self.plan.train
        return train.total_steps * train.tokens_per_step

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.tokens) / self.speed if self.speed else None

    def look(self, now: float) -> None:
        """Read the newest lines of its metrics. A file that can't be read now is read the next time."""
        if self.state in ("done", "failed", "interrupted"):
            return
        lines = tail(self.folder.metrics.file)
        steps = [line for line in lines if "loss" in line and "tokens" in line]
        if not steps:
            return
        self.tokens, self.loss = steps[-1]["tokens"], steps[-1]["loss"]
        self.figure = next(filter(None, map(_figure, reversed(lines))), self.figure)
        if self.seen and self.tokens < self.seen[-1][1]:  # cut back to a checkpoint
            self.seen.clear()
        if self.seen and self.tokens > self.seen[-1][1]:
            self.state = "running"
        if not self.seen or self.tokens > self.seen[-1][1]:
            self.seen.append((now, self.tokens))
        while len(self.seen) > 2 and now - self.seen[1][0] > SPEED_OVER:
            self.seen.popleft()
        (begin, first), (end, last) = self.seen[0], self.seen[-1]
        if end > begin:
            self.speed = (last - first) / (end - begin)


def tail(file: Path) -> list[dict[str, Any]]:
    """The last whole lines of a JSONL file; none where it can't be read."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.split("\n")[1 if size > TAIL else 0 : -1]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # it is being cut back
            continue
    return found


def _figure(line: dict[str, Any]) -> tuple[str, float] | None:
    """The first figure of an evaluation's line."""
    return None if "loss" in line and "tokens" in line else next(((k, v) for k, v in line.items() if k != "step"), None)


class Board(Watch):
    """All runs that are known of, in the order of their plans."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.lines: dict[tuple[RunPlan, Path], Line] = {}

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def planned(self, plan: RunPlan, folder: RunFolder) -> None:
        self.lines[plan, folder.path] = Line(plan, folder)

    def ended(self, plan: RunPlan, folder: RunFolder, end: RunEnd, *, before: bool) -> None:
        line = self.lines.setdefault((plan, folder.path), Line(plan, folder))
        line.look(time.monotonic())
        line.state = end.state
        if end.state == "done":
            line.tokens = line.total
        if before:
            self.remark(f"{plan.label}: done already, {folder.path}")
        elif end.error:
            self.remark(f"blockzoo: error: {plan.label}: {end.error}")

    def remark(self, text: str) -> None:
        raise NotImplementedError

    def seconds_left(self) -> float | None:
        """Until all known runs are done: what is left of each at its own arm's speed, over the workers."""
        speeds: dict[str, float] = {line.plan.arm: line.speed for line in self.lines.values() if line.speed}
        left = [line for line in self.lines.values() if line.state in ("waiting", "running")]
        if not left or not speeds:
            return None
        usual = sum(speeds.values()) / len(speeds)
        each = [(line.total - line.tokens) / (line.speed or speeds.get(line.plan.arm, usual)) for line in left]
        return max(sum(each) / min(self.workers, len(each)), max(each))

    def summary(self) -> str:
        """``3 of 12 runs done, 1 failed, about 0:04:10 left``."""
        states = [line.state for line in self.lines.values()]
        parts = [f"{states.count('done')} of {len(states)} runs done"]
        parts += [f"{states.count(state)} {state}" for state in ("failed", "interrupted") if state in states]
        left = self.seconds_left()
        return ", ".join(parts + ([f"about {clock(left)} left"] if left is not None else []))


class LiveTable(Board):
    """On a terminal."""

    def __init__(self, workers: int, console: Console) -> None:
        super().__init__(workers)
        self._console = console
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=REFRESHES,
            redirect_stdout=False,
            transient=True,
        )

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def remark(self, text: str) -> None:
        self._console.print(Text(text))

    def render(self) -> RenderableType:
        now = time.monotonic()
        lines = list(self.lines.values())
        for line in lines:
            line.look(now)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("run", "", "done", "loss", "held out", "tokens/s", "left"):
            table.add_column(name, justify="left" if name in ("run", "") else "right", no_wrap=True)
        for line in fitting(lines, self._console.height - 4):
            table.add_row(*cells(line), style=STYLES[line.state])
        return Group(table, Text(self.summary(), style="bold"))


class PlainLines(Board):
    """Where standard error is no terminal: a line for each run that ends."""

    def __init__(self, workers: int, console: Console) -> None:
        super().__init__(workers)
        self._console = console

    def ended(self, plan: RunPlan, folder: RunFolder, end: RunEnd, *, before: bool) -> None:
        super().ended(plan, folder, end, before=before)
        result = folder.result() if end.state == "done" and not before else None
        if result is not None:
            name, value = next(iter(result.items()))
            speed = f"{result['tokens_per_second']:,.0f} tokens/s"
            self.remark(f"{plan.label}: {value:.4f} {UNITS.get(name, name)}, {speed} ({self.summary()})")

    def remark(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def board(workers: int, console: Console | None = None) -> Board:
    """What suits standard error, or the given console."""
    console = Console(stderr=True) if console is None else console
    return LiveTable(workers, console) if console.is_terminal else PlainLines(workers, console)


def fitting(lines: list[Line], height: int) -> Iterable[Line]:
    """As many as fit: all that run, then what ended last and what comes next."""
    if len(lines) <= height:
        return lines
    rank = {"running": 0, "failed": 1, "waiting": 2, "interrupted": 3, "done": 4}
    order = sorted(range(len(lines)), key=lambda i: (rank[lines[i].state], i if lines[i].state == "waiting" else -i))
    return [lines[i] for i in sorted(order[: max(1, height)])]


def cells(line: Line) -> list[RenderableType]:
    bar = ProgressBar(total=line.total, completed=line.tokens, width=16)
    name, value = line.figure or ("", None)
    running = line.state == "running"
    return [
        line.plan.label,
        bar if running else line.state,
        f"{line.tokens / line.total:.0%}",
        "" if line.loss is None else f"{line.loss:.3f}",
        "" if value is None else f"{value:.3f} {UNITS.get(name, name)}",
        f"{line.speed:,.0f}" if running and line.speed else "",
        clock(line.seconds_left) if running and line.seconds_left is not None else "",
    ]


def clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
