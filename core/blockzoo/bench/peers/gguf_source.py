"""A checkpoint's tensors by canonical name, read from its files when asked for: no model is built.

Memory is one stored tensor, or 16 MiB of one that the checkpoint stores as the model has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from blockzoo.accounting import parameters_of
from blockzoo.blocks import QuantizerConfig
from blockzoo.checkpoints.folder import stored_tensors
from blockzoo.checkpoints.keymap import Entry, identity
from blockzoo.checkpoints.load import recognize
from blockzoo.checkpoints.tensors import wanted
from blockzoo.quantization import packed_names
from blockzoo.registry import Registry

VALUES_AT_ONCE = 4 * 2**20


class Source:
    """Weights of a local folder, native or in any layout that a family knows."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        source = recognize(folder, registry=registry)
        self.config = source.config
        self._parameters = parameters_of(source.config)
        self._packed: dict[str, QuantizerConfig] = packed_names(source.config, self._parameters)
        self._stored = stored_tensors(folder)
        want = wanted(source.config)
        if source.family is None:
            entries = identity(want)
        else:
            keys = source.family.layouts[source.layout].keys
            entries = keys.entries(want, keys.prefix_of(self._stored))
        self._places: dict[str, list[tuple[Entry, int]]] = {}
        for entry in entries:
            for index, target in enumerate(entry.targets):
                self._places.setdefault(target.name, []).append((entry, index))
        self._last: tuple[str, Tensor] | None = None

    def rows(self, name: str) -> Iterator[Tensor]:
        """A weight's values along its first axis, a piece at a time; packed ones are unpacked to float32."""
        if name in self._packed:
            yield from (self._packed[name].unpack(parts, torch.float32) for parts in self._parts(name))
            return
        entry, _ = self._places[name][0]
        if entry.rule.plain and entry.targets[0].row is None:
            yield from (rows for _, rows in self._stored[entry.stored].chunks())
        else:
            yield self._whole(name)

    def packed(self, name: str, quantizer: QuantizerConfig) -> Iterator[dict[str, Tensor]]:
        """The same pieces packed by a quantizer: the stored bytes where they are its own."""
        if self._packed.get(name) == quantizer:
            yield from self._parts(name)
        else:
            yield from (quantizer.pack(rows) for rows in self.rows(name))

    def _parts(self, name: str) -> Iterator[dict[str, Tensor]]:
        """The tensors that a weight is stored as, a piece of the first axis at a time."""
        shape = self._parameters[name].shape
        whole = {part: self._whole(f"{name}.{part}") for part in self._packed[name].tensors(shape)}
        step = max(1, VALUES_AT_ONCE * shape[0] // prod(shape))
        for start in range(0, shape[0], step):
            yield {part: tensor[start : start + step] for part, tensor in whole.items()}

    def _whole(self, name: str) -> Tensor:
        found = [entry.parts(self._read(entry.stored))[index] for entry, index in self._places[name]]
        return found[0] if self._places[name][0][0].targets[0].row is None else torch.stack(found)

    def _read(self, stored: str) -> Tensor:
        """One stored tensor, kept until another is asked for: fused ones are asked for part by part."""
        if self._last is None or self._last[0] != stored:
            self._last = None  # before the next one is read
            self._last = (stored, self._stored[stored].read())
        return self._last[1]
