"""From one folder to another, a tensor at a time: other layout, other dtype, other storage; no model is built."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from blockzoo.accounting import parameters_of
from blockzoo.blocks import QuantizerConfig
from blockzoo.checkpoints.beside import files_beside
from blockzoo.checkpoints.filling import Progress, silent
from blockzoo.checkpoints.keymap import Entry, Target
from blockzoo.checkpoints.load import Opened, check_shapes, kept_beside, open_checkpoint
from blockzoo.checkpoints.places import WEIGHTS_AT_ONCE
from blockzoo.checkpoints.safetensors_io import Planned
from blockzoo.checkpoints.save import SHARD_BYTES, contents, counted, plan, write_checkpoint
from blockzoo.checkpoints.tensors import wanted
from blockzoo.checkpoints.values import check_unpacked, check_values
from blockzoo.checkpoints.witness import Witness
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError
from blockzoo.quantization import packed_names
from blockzoo.registry import Registry

READ_AT_ONCE = 3
"""Stored tensors that are kept since more is asked of them: the two of a packed pair, such as gate and up, and one."""


def unchanged(config: ModelConfig) -> ModelConfig:
    """Weights are stored as they were."""
    return config


def convert(
    folder: Path,
    destination: str | Path,
    *,
    registry: Registry,
    layout: str,
    dtype: torch.dtype | Literal["stored"] = "stored",
    overrides: Mapping[str, object] | None = None,
    change: Callable[[ModelConfig], ModelConfig] = unchanged,
    beside: Mapping[str, bytes] = MappingProxyType({}),
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> ModelConfig:
    """Write a checkpoint folder in another layout, as loading and saving a model would, its tokenizer too; its config.

    ``dtype``: of the floats, or "stored". ``change``: the config with other quantizers; weights are packed, unpacked
    or packed anew as it says. ``beside``: files that the new folder gets in place of the old one's. Memory is
    a few stored tensors. Raises CheckpointError before a weight is read where the layout can't say the model, the disk
    is too small, the folder doesn't fit its config, or what is beside the weights can't be copied; and on the way for
    values that are no weights. The folder appears whole or not at all, once it has been read again and found the same.
    """
    beside = {**files_beside(folder), **beside}
    opened = open_checkpoint(folder, registry=registry, overrides=overrides)
    config = change(opened.config)
    check_shapes(opened.source.config, config)
    made = Converted(opened, config, dtype)
    entries, text = contents(config, layout, made.dtype, opened.prefix, kept_beside(folder), registry=registry)
    witness = Witness(made)

    def planned(entry: Entry) -> Planned:
        dtype = made.dtype_of(entry.targets[0].name)
        return plan(entry, dtype, partial(witness, entry.dtype or dtype))

    def check(new: Path) -> None:
        again = open_checkpoint(new, registry=registry)
        witness.compare(Path(destination), Converted(again, again.config, "stored"))

    tensors = counted([planned(entry) for entry in entries], progress)
    write_checkpoint(destination, {**text, **beside}, tensors, shard_bytes, check)
    return config


class Converted:
    """The canonical tensors of a checkpoint as another config stores them, made when they are asked for.

    Rows of a weight are packed independently, so packing and unpacking go a few million weights at a time.
    """

    def __init__(self, opened: Opened, config: ModelConfig, dtype: torch.dtype | Literal["stored"]) -> None:
        self.dtype = opened.dtype if dtype == "stored" else dtype
        self._opened = opened
        self._keep_dtypes = dtype == "stored"
        self._was = wanted(opened.source.config)
        self._held = {target: entry for entry in opened.entries for target in entry.targets}
        self._packed_before = packed_names(opened.source.config, parameters_of(opened.source.config))
        self._packed_now = packed_names(config, parameters_of(config))
        self._shapes = {name: parameter.shape for name, parameter in parameters_of(config).items()}
        self._read: OrderedDict[str, list[Tensor]] = OrderedDict()
        self._packed: tuple[Target, dict[str, Tensor]] | None = None

    def dtype_of(self, name: str) -> torch.dtype:
        """What a float tensor is written as."""
        entry = self._held.get(Target(name)) or self._held.get(Target(name, 0))
        known = self._keep_dtypes and entry is not None
        return self._opened.stored[entry.stored].dtype if known and entry is not None else self.dtype

    def __call__(self, target: Target) -> Tensor:
        weight, _, part = target.name.rpartition(".")
        quantizer = self._packed_now.get(weight)
        if target.name in self._packed_before:
            return self._floats(target, self.dtype)
        if quantizer is None or quantizer == self._packed_before.get(weight):
            value = self._stored(target)
            return value.to(self.dtype_of(target.name)) if self._was[target.name].dtype is None else value
        return self._repacked(Target(weight, target.row), quantizer)[part]

    def _repacked(self, weight: Target, quantizer: QuantizerConfig) -> dict[str, Tensor]:
        """All tensors that a weight is packed into; the last one's are kept, for they come one after the other."""
        if self._packed is None or self._packed[0] != weight:
            self._packed = None
            floats = self._floats(weight, torch.float32)
            tensors = quantizer.tensors(tuple(floats.shape))
            packed = {name: torch.empty(t.shape, dtype=t.dtype or self.dtype) for name, t in tensors.items()}
            row = 0
            for rows in _pieces(floats):
                try:
                    parts = quantizer.pack(rows.contiguous())
                except ValueError as error:
                    raise CheckpointError(f"{self._opened.source.folder}: '{weight.name}': {error}") from error
                for name, tensor in parts.items():
                    packed[name][row : row + len(rows)] = tensor
                row += len(rows)
            self._packed = weight, packed
        return self._packed[1]

    def _floats(self, weight: Target, dtype: torch.dtype) -> Tensor:
        """A weight as floats: of ``dtype`` if it was packed, else as stored."""
        before = self._packed_before.get(weight.name)
        if before is None:
            return self._stored(weight)
        shape = self._shapes[weight.name][0 if weight.row is None else 1 :]
        parts = {name: self._stored(Target(f"{weight.name}.{name}", weight.row)) for name in before.tensors(shape)}
        whole = torch.empty(shape, dtype=dtype)
        row = 0
        for rows in _pieces(whole):
            here = {name: tensor[row : row + len(rows)] for name, tensor in parts.items()}
            rows.copy_(before.unpack(here, dtype))
            check_unpacked(rows, f"{self._opened.source.folder}: '{weight.name}'")
            row += len(rows)
        return whole

    def _stored(self, target: Target) -> Tensor:
        """A canonical tensor of the checkpoint, or a row of one, as it is stored."""
        if entry := self._held.get(target):
            return self._views(entry, keep=len(entry.targets) > 1)[entry.targets.index(target)]
        if target.row is not None:
            entry = self._held[Target(target.name)]
            return self._views(entry, keep=True)[entry.targets.index(Target(target.name))][target.row]
        first = self._stored(Target(target.name, 0))
        whole = first.new_empty(self._was[target.name].shape)
        for row, place in enumerate(whole):
            place.copy_(self._stored(Target(target.name, row)) if row else first)
        return whole

    def _views(self, entry: Entry, *, keep: bool) -> list[Tensor]:
        """The canonical tensors in a stored one, checked."""
        if entry.stored in self._read:
            return self._read[entry.stored]
        while self._read and len(self._read) >= READ_AT_ONCE:
            self._read.popitem(last=False)
        stored = self._opened.stored[entry.stored]
        views = entry.parts(stored.read())
        for target, view in zip(entry.targets, views, strict=True):
            weight, _, part = target.name.rpartition(".")
            kept = target.name in self._packed_now or self._was[target.name].dtype is not None
            dtype = view.dtype if kept else self.dtype_of(target.name)
            check_values(view, stored, self._packed_before.get(weight), part, dtype)
        if keep:
            self._read[entry.stored] = views
        return views


def _pieces(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.split(max(1, WEIGHTS_AT_ONCE * len(weight) // prod(weight.shape)))
