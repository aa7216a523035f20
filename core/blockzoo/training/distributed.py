"""The processes that train one run together, as ``torchrun`` starts them.

Every process runs the same program. The first (rank 0) alone writes files and speaks; what only it can know, the others
hear from it. Gloo carries what is on the CPU, NCCL what is on NVIDIA devices.

Nobody waits for the dead: the first process to fail says why in the store that all share and ends, which breaks its
connections; the others find the reason there and end without a word of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from blockzoo.errors import InputError, RunError
from blockzoo.training.interrupt import Interrupted

TIMEOUT = timedelta(minutes=30)
"""How long a process waits in a step for one that lives and doesn't come."""
FAILED = "failed"
BROKEN = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")
T = TypeVar("T")


class PeerFailed(RunError):  # noqa: N818 (this process did not)
    """Another process of this run failed; it has said why itself."""


@dataclass(frozen=True)
class World:
    """Who trains together, as this process sees it. Without torchrun: it alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: dist.Store | None = field(default=None, repr=False, compare=False)
    _turns: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> str:
        """This process's own, of the kind that the recipe names. Raises InputError for one that can't be shared."""
        if self.size == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise InputError(
                f"train.device is {name}, {self.size} processes train: set cpu, or cuda (each takes its own)"
            )
        return f"cuda:{self.local_rank}"

    # --- numbers: every process must call these, in the same order ---

    def any(self, flag: bool) -> bool:
        """Whether any process says so. They all wait for each other."""
        if self.size == 1:
            return flag
        told = torch.tensor(int(flag))
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)

    def sum(self, values: Tensor) -> Tensor:
        """Added up over the processes; on the CPU."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, lines: Sequence[dict[str, float]]) -> list[dict[str, float]]:
        """Each figure of each line, averaged over the processes."""
        if self.size == 1:
            return list(lines)
        total = self.sum(torch.tensor([list(line.values()) for line in lines], dtype=torch.float64)) / self.size
        return [dict(zip(line, values, strict=True)) for line, values in zip(lines, total.tolist(), strict=True)]

    # --- the first process and the others ---

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gave the first process (something that JSON holds), in all of them, however long it takes."""
        if self.size == 1:
            return make()
        if not self.is_first:
            return self._hear()
        value = make()
        self._tell(value)
        return value

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The first process does this alone; then the others do it."""
        if not self.is_first:
            self._hear()
        yield
        if self.is_first and self.size > 1:
            self._tell(None)

    def _tell(self, value: object) -> None:
        assert self.store is not None
        self.store.set(f"turn/{next(self._turns)}", json.dumps(value))

    def _hear(self) -> Any:
        """Asks once a second, so that a failure is noticed."""
        assert self.store is not None
        key = f"turn/{next(self._turns)}"
        while True:
            try:
                self.store.wait([key], timedelta(seconds=1))
                return json.loads(self.store.get(key))
            except dist.DistStoreError:
                if self.store.check([FAILED]):
                    raise PeerFailed(self.store.get(FAILED).decode()) from None

    # --- failing together ---

    def explain(self, error: Exception) -> Exception:
        """What the run failed by, as this process sees it: its own error, or a peer's where that only broke its
        connections. The first process to be asked has the word; ``speaks`` says whether it is this one.
        """
        if self.store is None or isinstance(error, (Interrupted, PeerFailed)):
            return error
        broken = isinstance(error, RuntimeError) and any(word in str(error) for word in BROKEN)
        if broken:
            error = RunError("another process of this run ended without a word (killed, or out of memory?)")
        first = self._reason(f"{self._name}{type(error).__name__}: {error}")
        return PeerFailed(first) if broken and not first.startswith(self._name) else error

    @property
    def speaks(self) -> bool:
        """Whether this process was the first to fail."""
        return self._reason("").startswith(self._name)

    @property
    def _name(self) -> str:
        return f"process {self.rank}: "

    def _reason(self, mine: str) -> str:
        """Why the first to fail did: this process, where nobody has."""
        assert self.store is not None
        try:
            return self.store.compare_set(FAILED, "", mine).decode()
        except dist.DistError:
            return "the process that held the store ended"


ALONE = World()


def started_by_torchrun() -> int:
    """How many processes torchrun started. Raises InputError for a half of its environment."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"WORLD_SIZE is {text!r} in the environment; torchrun sets it to a number of processes")
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(text) > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {text} in the environment, {', '.join(missing)} not set: start with"
            f" torchrun --nproc-per-node {text} -m blockzoo train ..., or unset WORLD_SIZE"
        )
    return int(text)


def check_processes(world: World) -> None:
    """Raise InputError where torchrun started more processes than ``world`` knows of."""
    if started_by_torchrun() != world.size:
        raise InputError("torchrun is for `blockzoo train`: start this without it, it finds its processes itself")


@contextmanager
def join() -> Iterator[World]:
    """Meet the other processes for as long as the block lasts; alone, where torchrun didn't start this one.

    What one process raises all of them raise: the first to fail its own error, the others PeerFailed.
    """
    if started_by_torchrun() == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=timedelta(minutes=5)))
    dist.init_process_group(store=dist.PrefixStore("group", store), rank=rank, world_size=size, timeout=TIMEOUT)
    world = World(rank, size, int(os.environ["LOCAL_RANK"]), dist.PrefixStore("blockzoo", store))
    try:
        yield world
    except Interrupted:
        dist.destroy_process_group()
        raise
    except Exception as error:
        found = world.explain(error)
        if not world.speaks:
            raise PeerFailed(str(found)) from error
        if found is error:
            raise
        raise found from error
    dist.destroy_process_group()
