"""A plugin that does to its process, at import, what a plugin must not."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time

import torch

time.sleep(1.1)
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
random.seed(0)
os.environ["NO_PLUGIN_SAYS_THIS"] = "1"
with contextlib.suppress(OSError):
    socket.create_connection(("192.0.2.1", 80), timeout=0.1)


def blockzoo_register(registry: object) -> None:
    pass
