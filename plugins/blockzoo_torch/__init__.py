"""Kernels out of what PyTorch brings: fused attention, flex attention, plain grouped products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo_torch.flex import FLEX
    from blockzoo_torch.grouped import GROUPED
    from blockzoo_torch.sdpa import SDPA

    registry.kernel("attention", SDPA)
    registry.kernel("attention", GROUPED)
    registry.kernel("attention", FLEX)
