"""Running a side process: a request in, a reply out, and a line on what went wrong where there is none.

A process leads a session of its own, so that Ctrl-C reaches the conductor alone, which ends the process and whatever
that started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from blockzoo.bench.protocol import Reply, Request

LAST_WORDS = 3
"""Lines of a failed process's standard error that are told."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class SideError(Exception):
    """A side process gave no reply; the message says how it ended and its last words."""


def command_of(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]  # no file beside the user is taken for a module


def run_side(module: str, request: Request, *, timeout: float) -> Reply:
    """The reply of ``python -m module``. Raises SideError; no process is left, whatever happens."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(request.threads))
    process = subprocess.Popen(
        command_of(module),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **threads},
        start_new_session=True,
    )
    asked = json.dumps(asdict(replace(request, started=time.time())))
    try:
        out, err = process.communicate(asked, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise SideError(f"gave no answer in {timeout:.0f} s and was stopped") from error
    finally:
        _end(process)
    if process.returncode:
        raise SideError(f"{_how(process.returncode)}{_words(err)}")
    return _reply(out, err)


def _reply(out: str, err: str) -> Reply:
    try:
        values: Any = json.loads(out)
        return Reply(**values)
    except (ValueError, TypeError) as error:
        raise SideError(f"answered what is no reply ({out[:80]!r}){_words(err)}") from error


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _how(code: int) -> str:
    if code > 0:
        return f"ended with status {code}"
    hint = ", as by a system that is out of memory" if code == -signal.SIGKILL else ""
    return f"was killed ({signal.Signals(-code).name}{hint})"


def _words(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return f": {' | '.join(lines[-LAST_WORDS:])[-600:]}" if lines else ""
