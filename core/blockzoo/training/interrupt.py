"""Ctrl-C during long work: the first finishes the step and saves, the second stops at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from blockzoo.errors import RunError


class Interrupted(RunError):  # noqa: N818 (nothing went wrong)
    """The user stopped a run; what it had done is saved."""


class Interrupt:
    """A context in which the first SIGINT or SIGTERM only sets ``requested``; the second raises KeyboardInterrupt.

    ``deaf`` seconds after the first none is a second: torchrun passes on what the terminal gave everybody already.
    """

    def __init__(self, deaf: float = 0.0) -> None:
        self.requested = False
        self.deaf = deaf
        self._at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._at = True, time.monotonic()
        elif time.monotonic() - self._at >= self.deaf:
            raise KeyboardInterrupt
