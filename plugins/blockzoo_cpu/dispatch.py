"""The C kernels as torch sees them: ops of one library, so that torch.compile and export see one call each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OPS = torch.library.Library("blockzoo_cpu", "DEF")


def define(schema: str, implementation: Callable[..., Tensor], like: Callable[..., Tensor]) -> None:
    """Add ``torch.ops.blockzoo_cpu.NAME``. ``like``: an empty tensor as the implementation gives one, for tracing."""
    name = schema.partition("(")[0]
    OPS.define(schema)
    OPS.impl(name, implementation, "CPU")
    torch.library.register_fake(f"blockzoo_cpu::{name}", like, lib=OPS)


def may_go_direct(x: Tensor) -> bool:
    """Whether a call may pass torch's dispatcher by, which costs more than a small kernel: nobody traces it."""
    return type(x) is Tensor and not torch.compiler.is_compiling()
