"""Trackers: who else gets a run's figures, beside its own folder. Plugins bring them, by the hook ``blockzoo_tracker``.

A tracker is told what the run's files hold; nothing depends on it. One that raises is said once and left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blockzoo.errors import InputError, nearest
from blockzoo.plugins import host
from blockzoo.training.metrics import Metrics

HOOK = "blockzoo_tracker"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker may know of a run before it starts. ``folder`` is there, and its name is the run's for good."""

    name: str
    folder: Path


class Tracker(Protocol):
    """What ``blockzoo_tracker`` returns. Called in the process that trains, one call at a time."""

    def start(self, config: Mapping[str, Any]) -> None:
        """The run begins, or goes on: the contents of ``run.json``."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """A line of ``metrics.jsonl``: of a step, or of an evaluation. A resumed run begins after its checkpoint."""

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """The run ended: the contents of ``result.json``, None where it was interrupted or failed. Close everything."""


class Trackers:
    """The trackers of one run. No method raises for what a tracker does."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self.working = dict(trackers)

    def start(self, config: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.start(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.log(step, figures))

    def finish(self, result: Mapping[str, Any] | None) -> None:
        self._each(lambda tracker: tracker.finish(result))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.working.items()):
            try:
                call(tracker)
            except Exception as error:  # whatever it is, the run goes on
                del self.working[name]
                warn(name, error)


class TrackedMetrics(Metrics):
    """A run's metrics, which its trackers hear of once they are written."""

    def __init__(self, file: Path, trackers: Trackers) -> None:
        super().__init__(file)
        self.trackers = trackers

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        super().append(lines)
        for line in lines:
            self.trackers.log(line["step"], {name: value for name, value in line.items() if name != "step"})


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError for a name that no loaded plugin with a tracker has."""
    known = with_trackers() if names else {}
    for name in names:
        if name not in known:
            has = f"plugins with one: {', '.join(sorted(known))}" if known else "no loaded plugin has one"
            raise InputError(f"train.trackers: no tracker '{name}'{nearest(name, known)}; {has}")


def open_trackers(names: Sequence[str], run: TrackedRun) -> Trackers:
    """Ask the named plugins for their trackers; one that refuses or raises is said, and the run goes on without."""
    known, found = with_trackers() if names else {}, {}
    for name in dict.fromkeys(names):
        try:
            (tracker,) = host().hooks.call(known[name], HOOK, run=run) or (None,)
        except Exception as error:
            warn(name, error)
            continue
        if tracker is not None:
            found[name] = tracker
    return Trackers(found)


def with_trackers() -> dict[str, object]:
    """The loaded plugins that implement the hook, by name."""
    return {hook.plugin_name: hook.plugin for hook in host().hooks.hook.blockzoo_tracker.get_hookimpls()}


def warn(name: str, error: Exception) -> None:
    """One line, beside any progress bar."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"blockzoo: warning: tracker '{name}' stopped, the run goes on: {said}", file=sys.stderr, flush=True)
