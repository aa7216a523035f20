"""The frame of a side process: a request comes in, an engine is timed, a reply goes out.

Whatever a library prints to standard output meanwhile goes to standard error, so that the reply is the only line there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from blockzoo.bench.machine import peak_bytes
from blockzoo.bench.protocol import SHORT_PROMPT, Reply, Request


class Engine(Protocol):
    """A loaded model with a cache of its own; tokens are chosen greedily."""

    def read(self, tokens: list[int]) -> int:
        """Empty the cache, read a prompt, return the token that follows."""
        ...

    def step(self, token: int) -> int:
        """Read one more token, return the one that follows."""
        ...


def serve(measure: Callable[[Request], Reply]) -> None:
    """Read a request from standard input, measure, write the reply. An exception ends the process with a traceback."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # C libraries print as well
    reply = measure(Request(**json.load(sys.stdin)))
    if not reply.peak_bytes:
        reply = replace(reply, peak_bytes=peak_bytes())
    answers.write(json.dumps(reply.to_json()) + "\n")
    answers.flush()


def timed(load: Callable[[], Engine], request: Request) -> Reply:
    """Load an engine, then rounds of prefill and decoding; the first one isn't counted."""
    engine = load()
    engine.read(request.prompt[:SHORT_PROMPT])
    loading = time.time() - request.started
    prefill, decode = [], []
    for _ in range(1 + request.repeats):
        begin = time.perf_counter()
        token = engine.read(request.prompt)
        middle = time.perf_counter()
        for _ in range(request.new_tokens):
            token = engine.step(token)
        end = time.perf_counter()
        prefill.append(middle - begin)
        decode.append(end - middle)
    return Reply([loading], prefill[1:], decode[1:])
