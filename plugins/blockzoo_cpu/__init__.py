"""Kernels in C for decoding on a CPU: compiled at first use, PyTorch's where there is no compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo_cpu.linear import EXPERT_ROWS, LINEAR_ROWS

    registry.kernel("linear", LINEAR_ROWS)
    registry.kernel("expert_linear", EXPERT_ROWS)
