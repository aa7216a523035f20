"""What the process of one run does, whoever started it."""

from __future__ import annotations

import contextlib
import pickle
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from blockzoo.errors import BlockzooError, DivergenceError, InputError, RunError
from blockzoo.experiments.arm_plan import RunPlan
from blockzoo.experiments.run import execute, make_run
from blockzoo.plugins import host
from blockzoo.selection import Selection
from blockzoo.training.interrupt import Interrupted
from blockzoo.training.lock import BusyError
from blockzoo.training.run import Run

PATIENCE = 30.0
"""Seconds to wait for a process that is still saving the same run: one whose parent was killed stops by itself."""


@dataclass(frozen=True)
class Job:
    """A run to execute, with ``threads`` CPU threads. ``data``: the hash its text must have, None where any will do."""

    plan: RunPlan
    threads: int
    data: str | None = None


@dataclass(frozen=True)
class RunEnd:
    """How a run ended. ``folder``: its path; ``diverged``: it failed because its loss is no number any more."""

    plan: RunPlan
    folder: str | None
    state: Literal["done", "failed", "interrupted"]
    error: str | None = None
    diverged: bool = False


@dataclass(frozen=True)
class Parcel:
    """A job that crosses to another process: its plugins have to be there before it can be unpickled."""

    selection: Selection
    content: bytes

    @classmethod
    def pack(cls, job: Job) -> Parcel:
        """With the plugins that this process has loaded."""
        return cls(Selection.from_environment(), pickle.dumps(job))

    def perform(self) -> RunEnd:
        """In the other process: load the plugins, then do the job."""
        self.selection.export()
        host()
        return perform(pickle.loads(self.content))


def perform(job: Job) -> RunEnd:
    """Execute a run in this process, from wherever it stands. Never raises for what goes wrong in it."""
    end = RunEnd(job.plan, None, "failed")
    run: Run | None = None
    try:
        with threads(job.threads):
            run = make_run(job.plan, registry=host().registry)
            end = replace(end, folder=str(run.folder.path))
            if job.data not in (None, run.data.sha256):
                raise changed(run.data.name, job.data, run.data.sha256)
            _patiently(run, job.plan)
    except (Interrupted, KeyboardInterrupt):
        return replace(end, state="interrupted")
    except (BlockzooError, RunError) as error:
        return replace(end, error=str(error), diverged=isinstance(error, DivergenceError))
    except Exception as error:
        if run is not None:  # for whoever wrote the block; the one line is for everybody
            with contextlib.suppress(OSError):
                (run.folder.path / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return replace(end, error=f"{type(error).__name__}: {error}")
    return replace(end, state="done")


def changed(name: str, before: str, now: str) -> InputError:
    """The text under an experiment is another one."""
    return InputError(
        f"{name}: its text changed under the experiment: its hash was {before[:16]} and is {now[:16]}, and runs over"
        " different text are never compared. Put the text back, or keep the new runs elsewhere (--out)"
    )


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """With ``n`` CPU threads, which are part of a run's identity."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _patiently(run: Run, plan: RunPlan) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            execute(run, plan)
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
