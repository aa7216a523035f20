"""What would help: changes that take memory off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from blockzoo.blocks import QuantizerConfig
from blockzoo.errors import ConfigError
from blockzoo.memory_plan.devices import Device, Share, fits, largest, largest_context, split
from blockzoo.memory_plan.packing import quantized
from blockzoo.memory_plan.parts import Use


@dataclass(frozen=True)
class Change:
    """A change, and what the devices hold with it."""

    words: str
    shares: Sequence[Share]

    @property
    def fits(self) -> bool:
        return all(share.free >= 0 for share in self.shares)


def changes(use: Use, devices: Sequence[Device], rest: QuantizerConfig) -> list[Change]:
    """The single changes that take memory off, each by itself; where none is enough, those of storage together too.

    ``rest``: what floats would be packed by.
    """
    storage: dict[str, Callable[[Use], Use]] = {}
    if use.dtype.itemsize > torch.bfloat16.itemsize:
        storage["bfloat16"] = lambda u: replace(u, dtype=torch.bfloat16)
    if _packs(use, rest):
        name = f"{rest.registered.rpartition(':')[2]} rest"
        storage[name] = lambda u: replace(u, config=quantized(u.config, {"rest": rest}))
    if not use.config.embedding.tied and not use.map_embedding:
        storage["mapped embedding"] = lambda u: replace(u, map_embedding=True)
    found = {words: changed(use) for words, changed in storage.items()}
    if 0 < (context := largest_context(use, devices)) < use.context:
        found[f"context {context}"] = replace(use, context=context)
    if 0 < (batch := largest(use.batch, lambda n: fits(replace(use, batch=n), devices))) < use.batch:
        found[f"batch {batch}"] = replace(use, batch=batch)
    if len(storage) > 1 and not any(fits(changed, devices) for changed in found.values()):
        together = use
        for changed in storage.values():
            together = changed(together)
        found[" and ".join(storage)] = together
    return [Change(words, split(changed, devices)) for words, changed in found.items()]


def _packs(use: Use, rest: QuantizerConfig) -> bool:
    """Whether there is anything left to pack, and the quantizer takes its shapes."""
    packed = replace(use, config=quantized(use.config, {"rest": rest}))
    try:
        return packed.config != use.config and bool(packed.parts)
    except ConfigError:
        return False
