"""What this machine can do at most: read memory, which decoding is held against, and multiply matrices, which reading a
prompt is.

`python -m blockzoo.bench.roof` is the side process: apart, so that its buffers are in no other process's memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve
from blockzoo.bench.stream import STREAM_SUM
from blockzoo.kernels import REFERENCE, Call, Capabilities, Kernel, ask
from blockzoo.memory import free_memory
from blockzoo.plugins import host
from blockzoo.registry import Registry

STREAM_BYTES = 2**30
"""More than any cache; a virtual machine may report one that it shares with others."""
PASSES = 6
SIDE = 2048
"""Rows and columns of the matrices whose product is timed."""
DTYPES = (torch.float32, torch.bfloat16)


def reader(registry: Registry) -> tuple[Kernel | None, list[str]]:
    """The kernel that reads memory here, and why others don't."""
    capabilities = Capabilities.of(torch.device("cpu"))
    call = Call(STREAM_SUM.name, "decode", torch.float32, {})
    kernels = sorted(registry.kernels().get(STREAM_SUM.name, ()), key=lambda kernel: -kernel.priority)
    verdicts = [(kernel, ask(kernel, capabilities, call)) for kernel in kernels]
    chosen = next((kernel for kernel, verdict in verdicts if verdict.ok), None)
    return chosen, [f"{kernel.name}: {verdict.reason}" for kernel, verdict in verdicts if not verdict.ok]


def bandwidth(registry: Registry, nbytes: int = STREAM_BYTES) -> dict[str, Any]:
    """Bytes a second that all threads read together, best of some passes, and the kernel that read them."""
    chosen, refused = reader(registry)
    function = STREAM_SUM.reference if chosen is None else chosen.function
    x = torch.ones(min(nbytes, free_memory() // 4) // 4)
    return {
        "bytes_per_s": x.nbytes / min(_seconds(lambda: function(x))),
        "kernel": REFERENCE if chosen is None else chosen.name,
        "refused": refused,
        "buffer_bytes": x.nbytes,
    }


def products(side: int = SIDE) -> dict[str, float]:
    """FLOP/s of torch's matrix product by dtype, best of some passes."""
    found = {}
    for dtype in DTYPES:
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2 * side**3 / min(_seconds(lambda a=a, b=b: a @ b))  # type: ignore[misc]
    return found


def _seconds(work: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(PASSES):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return times


def measure(request: Request) -> Reply:
    """``options``: ``stream_bytes`` and ``side``, for a short look."""
    torch.set_num_threads(request.threads)
    registry = host().registry
    return Reply(
        extra={**bandwidth(registry, request.options["stream_bytes"]), "flops_per_s": products(request.options["side"])}
    )


if __name__ == "__main__":
    serve(measure)
