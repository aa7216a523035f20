"""Alone in a folder: an advisory lock that dies with the process that holds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from blockzoo.errors import InputError


class BusyError(InputError):
    """Another living process is at work in a folder."""


@contextlib.contextmanager
def alone(folder: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder``, made where it isn't there. Raises BusyError with the text ``busy`` where another process does,
    InputError for a file system without locks. ``wait``: until the other is gone, instead.

    Where the system has no advisory locks (Windows) nothing is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BusyError(busy) from error
        except OSError as error:  # a network file system without locks
            raise InputError(
                f"{folder}: can't be locked ({error.strerror}); choose a folder on another disk"
            ) from error
        yield
