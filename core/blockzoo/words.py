"""Blocks and options as people write them: what a block is, and what of it is no default."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from blockzoo.blocks import BlockConfig
from blockzoo.registry import Registry, bare


def title(block: BaseModel | None, registry: Registry) -> str:
    """``gqa``, ``moe``; ``none`` where there is nothing."""
    if block is None:
        return "none"
    if isinstance(block, BlockConfig):
        return bare(registry.name_of(type(block), block.kind))
    return str(vars(block).get("type", type(block).__name__))


def options(block: BaseModel | None, registry: Registry) -> list[str]:
    """Each option that is required or no default: ``d_ff 2880``, ``bias``, ``expert: glu (d_ff 2880)``."""
    if block is None:
        return []
    found = []
    for name, info in type(block).model_fields.items():
        value = getattr(block, name)
        if name != "type" and value is not None and (info.is_required() or value != info.default):
            found.append(_option(name, value, registry))
    return found


def in_words(block: BaseModel | None, registry: Registry) -> str:
    """A block on one line: ``glu (d_ff 2880, bias)``."""
    parts = options(block, registry)
    return title(block, registry) + (f" ({', '.join(parts)})" if parts else "")


def value_in_words(value: Any, registry: Registry) -> str:
    """An option's value: ``none``, ``yes``, ``0.1``, ``q k v o``, or a block in words."""
    if isinstance(value, BaseModel):
        return in_words(value, registry)
    if isinstance(value, (list, tuple)):
        return " ".join(value_in_words(item, registry) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def layers_in_words(layers: Sequence[int], n_layers: int) -> str:
    """``all layers``, ``layers 0, 2, 4, ... 22 (12 of 24)``, ``layers 3 to 60 (58 of 61)``."""
    if not layers or len(layers) == n_layers:
        return "all layers"
    if len(layers) == 1:
        return f"layer {layers[0]}"
    step = layers[1] - layers[0]
    even = all(b - a == step for a, b in pairwise(layers))
    if even and step == 1 and len(layers) > 2:
        named = f"{layers[0]} to {layers[-1]}"
    elif even and len(layers) > 4:
        named = f"{layers[0]}, {layers[1]}, {layers[2]}, ... {layers[-1]}"
    else:
        named = ", ".join(map(str, layers))
    return f"layers {named} ({len(layers)} of {n_layers})"


def _option(name: str, value: Any, registry: Registry) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, BaseModel):
        anonymous = not isinstance(value, BlockConfig) and "type" not in type(value).model_fields
        return f"{name}: {', '.join(options(value, registry)) if anonymous else in_words(value, registry)}"
    return f"{name} {value_in_words(value, registry)}"
