"""What this machine is, as far as a figure needs it, and what memory it and this process have."""

from __future__ import annotations

import os
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

STATUS, MEMINFO, CPUINFO = Path("/proc/self/status"), Path("/proc/meminfo"), Path("/proc/cpuinfo")


def peak_bytes() -> int:
    """The greatest resident memory of this process so far.

    Linux counts ru_maxrss on through exec, so a small child of a large process would look large: VmHWM doesn't.
    """
    if (kilobytes := _field(STATUS, "VmHWM")) is not None:
        return int(kilobytes.split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def total_memory() -> int:
    """Bytes of memory of this machine; 0 where the system doesn't say."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def free_memory() -> int:
    """Bytes that a new process may take; all there are, where the system doesn't say."""
    if (kilobytes := _field(MEMINFO, "MemAvailable")) is not None:
        return int(kilobytes.split()[0]) * 1024
    return total_memory()


def describe(threads: int) -> dict[str, Any]:
    """CPU, cores, threads, memory and versions; ``load_average``: of the last minute, in threads that wanted a core."""
    import torch

    from blockzoo.discovery import own_version

    return {
        "cpu": _field(CPUINFO, "model name") or platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_bytes": total_memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blockzoo": own_version(),
    }


def _field(file: Path, name: str) -> str | None:
    """The first value of a ``name: value`` file of Linux."""
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
