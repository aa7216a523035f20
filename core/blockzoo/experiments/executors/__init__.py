"""Who executes runs: processes of this machine, or a cluster. An executor schedules and knows nothing of models.

A run's folder is its only voice: progress and figures are read from there, and a process that died left a run that
resumes. So executors hand back no figures, only how each run ended.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from blockzoo.experiments.config import ExecutorConfig
from blockzoo.experiments.threads import threads_each
from blockzoo.experiments.worker import Job, RunEnd

__all__ = ["Executor", "Job", "RunEnd", "make_executor", "threads_each"]


class Executor(Protocol):
    """Executes jobs. ``threads``: CPU threads of each run, part of what makes its bits."""

    @property
    def threads(self) -> int: ...

    def run(self, jobs: Sequence[Job]) -> Generator[RunEnd, None, None]:
        """Execute all jobs; each one's end as it comes, failed ones too.

        The first Ctrl-C lets runs finish their step and save, yields their ends, starts no more and raises Interrupted
        at last; the second raises KeyboardInterrupt at once. Closing the iterator stops all runs as the first does.
        """
        ...

    def close(self) -> None:
        """Let go of what outlasts ``run``."""
        ...


def make_executor(config: ExecutorConfig) -> Executor:
    """The executor of a config. Raises InputError where what it needs isn't installed."""
    if config.type == "ray":
        from blockzoo.experiments.executors.ray import RayExecutor

        return RayExecutor(
            workers=config.workers,
            threads=threads_each(config),
            gpus=config.gpus,
            retries=config.retries,
            address=config.address,
        )
    from blockzoo.experiments.executors.local import LocalExecutor

    return LocalExecutor(workers=config.workers, threads=threads_each(config), retries=config.retries)
