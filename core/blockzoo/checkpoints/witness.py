"""Proof that a folder says what was meant: it is opened again, and every tensor compared, before it is called done.

What goes into the files is remembered by a checksum of each canonical tensor; the folder is then read as any other
checkpoint, through its own config and key map. So a slip in a map, a config or a disk shows before the folder appears.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from blockzoo.checkpoints.keymap import Target
from blockzoo.checkpoints.safetensors_io import bytes_of
from blockzoo.errors import CheckpointError


class Witness:
    """Hands tensors on, and remembers each by name and row."""

    def __init__(self, made: Callable[[Target], Tensor]) -> None:
        self._made = made
        self._sums: dict[Target, int] = {}

    def __call__(self, dtype: torch.dtype, target: Target) -> Tensor:
        """What is made for a target, as the file holds it."""
        tensor = self._made(target).to(dtype)
        self._sums[target] = checksum(tensor)
        return tensor

    def compare(self, folder: Path, read: Callable[[Target], Tensor]) -> None:
        """Raise CheckpointError where ``read``, which reads the folder, gives another tensor."""
        for target, expected in self._sums.items():
            if checksum(read(target)) != expected:
                row = "" if target.row is None else f", row {target.row}"
                raise CheckpointError(
                    f"{folder.name}: read again, '{target.name}'{row} is not what was written: a fault of the disk, or"
                    " of the family's key map; nothing was kept"
                )


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes: against mistakes, not against malice."""
    return zlib.crc32(bytes_of(tensor.contiguous()))
