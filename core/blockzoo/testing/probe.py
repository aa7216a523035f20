"""``python -m blockzoo.testing.probe MODULE[:ATTRIBUTE]``: what loading a plugin does to a process, as JSON."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import sys
import time
import warnings
from importlib.metadata import EntryPoint
from typing import Any

import torch

from blockzoo.hooks import HookManager
from blockzoo.registry import Registrar, Registry


def surroundings() -> dict[str, Any]:
    """The global state that a plugin has no business with."""
    return {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's default device": str(torch.get_default_device()),
        "torch's random state": torch.get_rng_state().sum().item(),
        "torch's threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "Python's random state": hash(random.getstate()),
        "environment variables": sorted(os.environ.items()),
        "the root logger": (logging.getLogger().level, len(logging.getLogger().handlers)),
        "warning filters": len(warnings.filters),
        "the working folder": os.getcwd(),
        "the standard streams": (id(sys.stdout), id(sys.stderr), id(sys.excepthook)),
    }


def main(value: str) -> None:
    calls: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        calls.append(f"{args[-1]!r}"[:80])
        raise OSError("the network is closed while plugins are checked")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.create_connection = refuse
    socket.getaddrinfo = refuse
    before = surroundings()
    start = time.perf_counter()
    module = EntryPoint("plugin", value, "blockzoo.plugins").load()
    seconds = time.perf_counter() - start
    hooks = HookManager()
    hooks.add(module, "plugin")
    hooks.call(module, "blockzoo_register", registry=Registrar(Registry(builtin=frozenset({"plugin"})), "plugin"))
    after = surroundings()
    changed = [name for name, state in before.items() if after[name] != state]
    cuda = torch.cuda.is_initialized()
    print(json.dumps({"seconds": seconds, "network": calls, "cuda": cuda, "changed": changed}))


if __name__ == "__main__":
    main(sys.argv[1])
