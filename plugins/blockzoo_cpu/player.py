"""Recorded decoding steps in C: as many calls at once as follow one another, in one team of threads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor

from blockzoo.recording import Noted
from blockzoo.recording.player import Play
from blockzoo_cpu import steps
from blockzoo_cpu.calls import OPERATIONS, Operation
from blockzoo_cpu.library import function, problem


class CPlayer:
    """A ``Player`` of the kernels of this plugin, and of what PyTorch does between them."""

    def takes(self, call: Noted) -> bool:
        return problem() is None and told(call, call.args) is not None

    def prepare(self, calls: Sequence[Noted]) -> Play:
        written = [told(call, call.args) or _changed(call) for call in calls]
        later = [told(call, call.later) or _changed(call) for call in calls]
        start = np.frombuffer(b"".join(struct for _, struct in written), np.int64)
        # what moves does so by the same amount each step; a member that is no integer does not move
        growth = np.frombuffer(b"".join(struct for _, struct in later), np.int64) - start
        members = start.copy()
        places = accumulate((len(struct) for _, struct in written), initial=members.ctypes.data)
        table = np.array(
            [(OPERATIONS.index(name), at) for (name, _), at in zip(written, places, strict=False)], np.int64
        )
        run = _run()

        def play(steps: int) -> None:
            np.add(start, steps * growth, out=members)
            if run(table.ctypes.data, len(calls)):  # the calls hold the memory that the members name
                raise MemoryError("no memory for a step of decoding")

        return play


def told(call: Noted, args: Sequence[Any]) -> tuple[str, bytes] | None:
    """The operation and the struct of a call with these arguments, or None where C code doesn't serve it."""
    if not isinstance(call.function, Operation):
        return steps.told(call, args)
    ready = call.function.ready(*args)
    if any(isinstance(a, Tensor) and a.data_ptr() != b.data_ptr() for a, b in zip(args, ready, strict=True)):
        return None  # a copy would be no part of the recording
    made = call.outs if len(call.outs) > 1 else call.outs[0]
    return call.function.name, call.function.pack(made, *ready)


def _changed(call: Noted) -> tuple[str, bytes]:
    raise AssertionError(f"{call.name} was taken, and can't be made a step later")


@cache
def _run() -> Any:
    return function("run", ctypes.c_void_p, ctypes.c_int64)


PLAYER = CPlayer()
