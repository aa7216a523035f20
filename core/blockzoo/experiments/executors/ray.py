"""Runs as tasks of Ray, from this machine to a cluster: Moritz et al. 2018, arXiv:1712.05889.

Ray only schedules: it counts CPUs and GPUs, finds a node and starts a task again whose process died. Everything a run
has to say is in its folder, so the folder must be on storage that all nodes and this process see under one path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

from blockzoo.errors import InputError, RunError
from blockzoo.experiments.worker import Job, Parcel, RunEnd
from blockzoo.training.interrupt import Interrupt, Interrupted

POLL = 0.2
"""Seconds between looks for Ctrl-C."""
SAVING = 60.0
"""Seconds that runs have to save when the conductor itself fails."""


class RayExecutor:
    """``workers`` runs at a time with ``threads`` CPUs and ``gpus`` GPUs each. A task whose process died is started
    again, from its checkpoint, up to ``retries`` times.

    Raises InputError where Ray isn't installed, RunError where the cluster at ``address`` can't be reached.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        threads: int = 1,
        gpus: float = 0.0,
        retries: int = 2,
        address: str | None = None,
    ) -> None:
        self.workers, self.threads, self.gpus, self.retries, self.address = workers, threads, gpus, retries, address
        self._ray = _import_ray()
        self._connected = False

    def close(self) -> None:
        """Leave the cluster; one that was started here ends. One that somebody else connected to stays."""
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def run(self, jobs: Sequence[Job]) -> Generator[RunEnd, None, None]:
        """See ``Executor.run``."""
        if not jobs:
            return
        if not self._ray.is_initialized():
            self._connect()
        ray = self._ray
        task = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=self.retries)(_task)
        waiting = list(reversed(jobs))
        running: dict[Any, Job] = {}
        told = False
        try:
            with Interrupt() as interrupt:
                while running or (waiting and not told):
                    while waiting and len(running) < self.workers and not told:
                        job = waiting.pop()
                        running[task.options(name=job.plan.label).remote(Parcel.pack(job))] = job
                    over, _ = ray.wait(list(running), timeout=POLL)
                    if interrupt.requested and not told:
                        told = True
                        self._stop(running, force=False)
                    for one in over:
                        yield self._end(one, running.pop(one), told)
            if told:
                raise Interrupted("stopped; what ran is saved, the same command goes on from there")
        except KeyboardInterrupt:
            self._stop(running, force=True)
            raise
        finally:
            if running:
                self._stop(running, force=False)
                ray.wait(list(running), num_returns=len(running), timeout=SAVING)

    def _end(self, one: Any, job: Job, told: bool) -> RunEnd:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(one)
        except exceptions.TaskCancelledError:
            return RunEnd(job.plan, None, "interrupted")
        except exceptions.RayError as error:
            if told:
                return RunEnd(job.plan, None, "interrupted")
            why = str(error).strip().partition("\n")[0]
            return RunEnd(job.plan, None, "failed", f"its process died, {self.retries} retries did not help: {why}")

    def _stop(self, running: dict[Any, Job], *, force: bool) -> None:
        """In its process a cancelled task sees Ctrl-C: the run finishes its step and saves."""
        for one in running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(one, force=force)

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        own: dict[str, Any] = {
            "num_cpus": self.workers * self.threads,
            "include_dashboard": False,
            "object_store_memory": 100 * 2**20,  # what crosses is a plan and how a run ended
        }
        try:
            self._ray.init(address=self.address, **quiet) if self.address else self._ray.init("local", **quiet, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(f"Ray cluster {self.address or 'on this machine'}: {error}") from error
        self._connected = True


def _task(parcel: Parcel) -> RunEnd:
    return parcel.perform()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "executor.type ray needs Ray: pip install 'blockzoo[cluster]'; or take executor.type local"
        ) from error
    return ray
