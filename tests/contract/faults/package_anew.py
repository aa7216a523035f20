"""A plugin that makes its family in the hook: another object at every call."""

from __future__ import annotations

from blockzoo.checkpoints.family import Family
from blockzoo.registry import Registrar


def blockzoo_register(registry: Registrar) -> None:
    registry.family(Family("anew", {}, tokenizer="bytes"))
