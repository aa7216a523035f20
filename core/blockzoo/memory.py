"""How much memory there is, in the machine or in the container around this process, and whether a model finds room."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from blockzoo.errors import InputError

MEMINFO = Path("/proc/meminfo")
OWN_GROUP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def total_memory() -> int:
    """Bytes of memory that this process may have at all; 0 where the system doesn't say."""
    machine = 0
    with suppress(AttributeError, ValueError, OSError):
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for limit, _ in _limits())])


def free_memory() -> int:
    """Bytes that a process may take now; all there are, where the system doesn't say."""
    free = fields(MEMINFO).get("MemAvailable")
    there = total_memory() if free is None else kilobytes(free)
    return max(0, min([there, *(limit - used for limit, used in _limits())]))


def check_memory(needed: int, what: str) -> None:
    """Raise InputError where so many bytes are free neither in memory nor in the swap: before the system kills."""
    free = free_memory() + kilobytes(fields(MEMINFO).get("SwapFree", "0"))
    if needed > free > 0:
        raise InputError(
            f"{what} takes {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free;"
            " `blockzoo plan` says what would make it fit"
        )


def fields(file: Path) -> dict[str, str]:
    """The ``name: value`` lines of a file of Linux, the first of each name; none where there is no such file."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def kilobytes(text: str) -> int:
    """Bytes of such a value: ``123 kB``."""
    return int(text.split()[0]) * 1024


def _limits() -> list[tuple[int, int]]:
    """Of each control group (version 2) around this process with a limit: it, and what of it can't be given back."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = OWN_GROUP.read_text(encoding="utf-8").splitlines()
        own = Path(next(line for line in lines if line.startswith("0::")).removeprefix("0::/"))
        for group in (GROUPS / own, *(GROUPS / parent for parent in own.parents)):
            limit = _read(group / "memory.max")
            if limit.isdecimal():
                held = dict(line.split() for line in _read(group / "memory.stat").splitlines())
                files = sum(int(held.get(name, 0)) for name in ("active_file", "inactive_file"))
                found.append((int(limit), int(_read(group / "memory.current")) - files))
    return found


def _read(file: Path) -> str:
    with suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8").strip()
    return ""
