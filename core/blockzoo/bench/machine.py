"""What this machine is, as far as a figure needs it, and what memory this process took."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

from blockzoo.memory import fields, kilobytes, total_memory

STATUS, CPUINFO = Path("/proc/self/status"), Path("/proc/cpuinfo")


def peak_bytes() -> int:
    """The greatest resident memory of this process so far.

    Linux counts ru_maxrss on through exec, so a small child of a large process would look large: VmHWM doesn't.
    """
    if (most := fields(STATUS).get("VmHWM")) is not None:
        return kilobytes(most)
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return counted if sys.platform == "darwin" else counted * 1024


def describe(threads: int) -> dict[str, Any]:
    """CPU, cores, threads, memory and versions; ``load_average``: of the last minute, in threads that wanted a core."""
    import torch

    from blockzoo.discovery import own_version

    return {
        "cpu": fields(CPUINFO).get("model name") or platform.processor() or platform.machine(),
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
