"""What loading holds beside the model at its peak, known before anything is read."""

from __future__ import annotations

from math import prod

import torch

from blockzoo.accounting import parameters_of
from blockzoo.checkpoints.family import Family
from blockzoo.checkpoints.places import WEIGHTS_AT_ONCE
from blockzoo.checkpoints.safetensors_io import CHUNK_BYTES
from blockzoo.checkpoints.tensors import wanted
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError
from blockzoo.memory_plan import UNPACKING
from blockzoo.quantization import packed_names
from blockzoo.registry import Registry


def whole_read(stored: ModelConfig, asked: ModelConfig, dtype: torch.dtype, *, registry: Registry) -> int:
    """Bytes of the largest tensor that is read before it goes into its place.

    Those are the fused, transposed and interleaved ones of the family's first layout; anything else comes in pieces.
    What ``asked`` packs and ``stored`` does not is packed piece by piece.
    """
    found = [CHUNK_BYTES, *_not_plain(stored, dtype, registry)]
    parameters = parameters_of(stored)
    new = packed_names(asked, parameters).keys() - packed_names(stored, parameters).keys()
    rows = [parameters[name].numel // parameters[name].shape[0] for name in new]
    return max(found) + max((max(WEIGHTS_AT_ONCE, row) for row in rows), default=0) * UNPACKING


def _not_plain(config: ModelConfig, dtype: torch.dtype, registry: Registry) -> list[int]:
    if config.family is None:
        return []
    family: Family = registry.get("family", config.family)
    try:
        entries = next(iter(family.layouts.values())).keys.entries(wanted(config))
    except CheckpointError:  # only the native layout holds it, where every tensor is plain
        return []
    return [prod(e.shape) * (e.dtype or dtype).itemsize for e in entries if not e.rule.plain]
