"""Whether a checkpoint's stored tensors are those that a layout wants, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

from blockzoo.checkpoints.folder import shortened
from blockzoo.checkpoints.keymap import Entry, Want
from blockzoo.checkpoints.safetensors_io import StoredTensor
from blockzoo.errors import CheckpointError

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check(
    entries: Sequence[Entry], stored: Mapping[str, StoredTensor], where: str, allowed: Sequence[str] = ()
) -> None:
    """Each stored tensor used exactly once, with its shape and kind of dtype; ``allowed`` are extra and known.

    Raises CheckpointError with everything that is wrong, at once.
    """
    expected = {entry.stored: entry for entry in entries}
    missing = [name for name in expected if name not in stored]
    unknown = sorted(set(stored) - set(expected) - set(allowed))
    wrong = []
    for name, entry in expected.items():
        tensor = stored.get(name)
        if tensor is None:
            continue
        if tensor.shape != entry.shape:
            wrong.append(f"'{name}' has shape {tensor.shape}, the config wants {entry.shape}")
        if tensor.dtype not in (FLOATS if entry.dtype is None else (entry.dtype,)):
            kind = "a float" if entry.dtype is None else str(entry.dtype).removeprefix("torch.")
            wrong.append(f"'{name}' is {str(tensor.dtype).removeprefix('torch.')}, the config wants {kind}")
    if missing or unknown or wrong:
        said = [
            *shortened([f"missing: '{name}' {tuple(expected[name].shape)}" for name in missing]),
            *shortened([f"not known in this layout: '{name}'" for name in unknown]),
            *shortened(wrong),
            *_prefixed(missing, unknown),
        ]
        raise CheckpointError("\n".join([f"{where}: does not fit its config:", *said]))


def _prefixed(missing: Sequence[str], unknown: Sequence[str]) -> list[str]:
    """What stands before every missing key, in words, where all of them are there but for that."""
    there = set(unknown)
    before = [name.removesuffix(missing[0]) for name in unknown if missing and name.endswith(f".{missing[0]}")]
    found = [prefix for prefix in before if all(prefix + name in there for name in missing)]
    return [f"every missing one is there with '{prefix}' before its name: take that off" for prefix in found[:1]]


def check_size(wanted: Mapping[str, Want], stored: Mapping[str, StoredTensor], where: str) -> None:
    """Refuse a config that promises far more than the files hold before anything is listed tensor by tensor."""
    promised = sum(prod(want.shape) for want in wanted.values())
    held = sum(prod(tensor.shape) for tensor in stored.values())
    if promised > 2 * held + 2**20:
        raise CheckpointError(f"{where}: its config describes {promised:,} weights, its files hold {held:,}")
