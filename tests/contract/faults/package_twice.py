"""A plugin that registers something else each time."""

from __future__ import annotations

from itertools import count

from blockzoo.registry import Registrar
from tests.contract.faults.blocks import Norm

CALLS = count()


def blockzoo_register(registry: Registrar) -> None:
    registry.block("norm", f"norm_{next(CALLS)}", Norm)
