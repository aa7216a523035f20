"""Runs as processes of this machine, some at a time.

Each run has a process of its own, so that nothing of one run is left for the next and a crash takes only itself. They
are forked from a server that has imported what they all need, so a start takes a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from blockzoo.experiments.worker import Job, Parcel, RunEnd
from blockzoo.plugins import host
from blockzoo.training.interrupt import Interrupt, Interrupted

POLL = 0.2
"""Seconds between looks for Ctrl-C."""
SLOW_IMPORTS = ("torch._dynamo",)
"""What torch imports when the first optimizer is made: more than a second."""
SAVING = 60.0
"""Seconds that runs have to save when the conductor itself fails."""


@dataclass
class Running:
    """One run under way. ``attempt`` counts from 0."""

    job: Job
    attempt: int
    process: BaseProcess
    connection: Connection

    def stop(self) -> None:
        """Ask it to finish its step and save; a second time, to stop at once."""
        with suppress(OSError):  # it has ended already
            self.connection.send("stop")

    def end(self) -> RunEnd | None:
        """How it ended, once it did; None where its process died without a word."""
        end = None
        with suppress(EOFError, OSError):
            if self.connection.poll():
                end = self.connection.recv()
        self.process.join()
        self.connection.close()
        return end


class LocalExecutor:
    """``workers`` runs at a time with ``threads`` CPU threads each; a run whose process died is started again, from its
    checkpoint, up to ``retries`` times.
    """

    def __init__(self, *, workers: int = 1, threads: int = 1, retries: int = 2) -> None:
        self.workers, self.threads, self.retries = workers, threads, retries

    def close(self) -> None:
        """Nothing is kept."""

    def run(self, jobs: Sequence[Job]) -> Generator[RunEnd, None, None]:
        """See ``Executor.run``."""
        waiting = deque((job, 0) for job in jobs)
        running: list[Running] = []
        context = _context()
        told = False
        try:
            with Interrupt() as interrupt:
                while running or (waiting and not told):
                    while waiting and len(running) < self.workers and not told:
                        running.append(_start(context, *waiting.popleft()))
                    wait([thing for one in running for thing in (one.connection, one.process.sentinel)], POLL)
                    if interrupt.requested and not told:
                        told = True
                        for one in running:
                            one.stop()
                    for one in [one for one in running if _is_over(one)]:
                        running.remove(one)
                        end = one.end()
                        if end is None and not told and one.attempt < self.retries:
                            waiting.appendleft((one.job, one.attempt + 1))
                        else:
                            yield end or _died(one, told)
            if told:
                raise Interrupted("stopped; what ran is saved, the same command goes on from there")
        except KeyboardInterrupt:
            for one in running:
                one.process.kill()
            raise
        finally:
            for one in running:
                one.stop()
            for one in running:
                one.process.join(SAVING)
                one.process.kill()


def _context() -> BaseContext:
    """Forks from a server that has torch and the built-in blocks imported; fresh processes where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # others' plugins are imported in each run: nobody knows whether what they do at import survives a fork
    builtin = [plugin.installed.entry.module for plugin in host().plugins if plugin.builtin]
    context.set_forkserver_preload([__name__, *SLOW_IMPORTS, *builtin])
    return context


def _start(context: BaseContext, job: Job, attempt: int) -> Running:
    mine, theirs = context.Pipe()
    # mypy: BaseContext leaves Process to its subclasses
    process = context.Process(target=_child, args=(theirs, Parcel.pack(job)), name=job.plan.label)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    return Running(job, attempt, process, mine)


def _is_over(one: Running) -> bool:
    """Its end is there to be read, or never will be."""
    return one.connection.poll() or not one.process.is_alive()


def _died(one: Running, told: bool) -> RunEnd:
    if told:
        return RunEnd(one.job.plan, None, "interrupted")
    code = one.process.exitcode or 0
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
    times = f" {one.attempt + 1} times" if one.attempt else ""
    hint = "; out of memory? Lower executor.workers or train.batch_size" if code == -signal.SIGKILL else ""
    return RunEnd(one.job.plan, None, "failed", f"its process {how}{times}{hint}")


# --- in the other process ---


def _child(connection: Connection, parcel: Parcel) -> None:
    if os.name == "posix":
        os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on once
        os.dup2(2, 1)  # standard output is the verb's
    threading.Thread(target=_obey, args=(connection,), daemon=True).start()
    with suppress(KeyboardInterrupt, OSError):  # stopped before it began, or nobody listens any more
        connection.send(parcel.perform())


def _obey(connection: Connection) -> None:
    """Turn the parent's word into Ctrl-C. Where the parent is gone: finish the step, save and end."""
    try:
        while True:
            connection.recv()
            os.kill(os.getpid(), signal.SIGINT)
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
