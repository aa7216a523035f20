"""The most memory that a stretch of work held at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """``growth``: bytes at the peak above what was held before, None where the system can't say."""

    growth: int | None = None


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """Watch the body. On CUDA the allocator's tensors; on the CPU the process's resident memory, all of it: weights,
    gradients, optimizer, activations, but also libraries loaded meanwhile and what the allocator keeps of freed memory.

    Linux alone lets a process forget its earlier peak; elsewhere there is a figure only where the process's own rose.
    """
    peak = Peak()
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.growth = torch.cuda.max_memory_allocated(device) - before
        return
    forgot = _forget_peak()
    held = _resident() if forgot else _highest()
    yield peak
    after = _highest()
    if held is not None and after is not None and (forgot or after > held):
        peak.growth = max(0, after - held)


def _forget_peak() -> bool:
    try:
        _RESET.write_text("5")  # man 5 proc: resets the peak resident set size
    except OSError:
        return False
    return _from_status("VmHWM") is not None


def _resident() -> int | None:
    return _from_status("VmRSS")


def _highest() -> int | None:
    found = _from_status("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _from_status(key: str) -> int | None:
    """One of Linux's figures in bytes; None elsewhere."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
