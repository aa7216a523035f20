"""Weights that stay in their file: tensors over a private, copy-on-write map of it.

Pages are read when they are first used, shared with the system's file cache, and dropped under pressure; writing to a
tensor copies the page and never reaches the file. Python can't guard such a map: where the file shrinks under it, the
system ends the process (SIGBUS), and where it is overwritten in place, weights change. Files that are replaced by
renaming, as blockzoo and huggingface_hub do it, stay whole for as long as they are mapped.
"""

from __future__ import annotations

import mmap
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from blockzoo.checkpoints.safetensors_io import StoredTensor
from blockzoo.errors import CheckpointError


class Maps:
    """The files of a checkpoint, each mapped once. A map lives as long as a tensor over it."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def view(self, stored: StoredTensor) -> Tensor | None:
        """The tensor over its file's bytes; None where it has none, or they don't lie as its dtype must be aligned.

        Raises CheckpointError for a file that can't be mapped, or that has become shorter than its header said.
        """
        if not stored.nbytes or stored.offset % stored.dtype.itemsize:
            return None
        there = self._map(stored.path)
        if stored.offset + stored.nbytes > len(there):
            raise CheckpointError(f"{stored.path}: ends inside tensor '{stored.name}'; it is truncated")
        flat = torch.frombuffer(there, dtype=stored.dtype, count=prod(stored.shape), offset=stored.offset)
        return flat.view(stored.shape)

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            try:
                with open(path, "rb") as file:
                    self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:  # ValueError: an empty file
                reason = getattr(error, "strerror", None) or error
                raise CheckpointError(f"{path}: can't be mapped ({reason}); load without mapping") from error
        return self._maps[path]
