"""A checkpoint of random weights at a model's real shape, written one tensor at a time: to show size and speed without
a hub.

The values are sane and not those of ``build``: matrices N(0, std) as the config's ``init`` says, gains 1, biases and
sinks 0. Each expert is drawn from a seed of its own, so all layouts of one seed hold the same model.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from torch import Tensor

from blockzoo.accounting import account
from blockzoo.checkpoints.beside import files_beside
from blockzoo.checkpoints.filling import Progress, silent
from blockzoo.checkpoints.keymap import Target
from blockzoo.checkpoints.load import kept_beside
from blockzoo.checkpoints.save import SHARD_BYTES, contents, counted, plan, write_checkpoint
from blockzoo.config.schema import ModelConfig
from blockzoo.initialization import CONSTANT, draw, seed_of, std_of
from blockzoo.quantization import packed_names
from blockzoo.registry import Registry

WEIGHTS_AT_ONCE = 4 * 2**20


def write_random(
    config: ModelConfig,
    folder: str | Path,
    *,
    registry: Registry,
    layout: str = "hf",
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
    source: Path | None = None,
    progress: Progress = silent,
) -> int:
    """Write random weights in a layout: packed where a quantizer is, ``dtype`` elsewhere. Returns the weights' bytes.

    ``source``: a folder whose tokenizer and ids of special tokens come along. ``progress(done, total)`` is told bytes.
    Memory is one stored tensor and the part of it being drawn. Raises what ``save_pretrained`` raises, and
    CheckpointError where the disk is too small; the folder appears whole or not at all.
    """
    kept, beside = ({}, {}) if source is None else (kept_beside(source), files_beside(source))
    entries, text = contents(config, layout, dtype, kept=kept, registry=registry)
    drawn = RandomTensors(config, seed, dtype)
    planned = [plan(entry, dtype, drawn) for entry in entries]
    total = sum(one.nbytes for one in planned)
    write_checkpoint(folder, {**text, **beside}, counted(planned, progress), shard_bytes)
    return total


class RandomTensors:
    """Canonical tensors, or rows of them, made when they are asked for; the same each time."""

    def __init__(self, config: ModelConfig, seed: int, dtype: torch.dtype) -> None:
        cost = account(config, context=1).cost
        self._config, self._seed, self._dtype = config, seed, dtype
        self._parameters = {**cost.parameters, **cost.buffers}
        self._packed = packed_names(config, cost.parameters)

    def __call__(self, target: Target) -> Tensor:
        name, part = target.name, None
        if name not in self._parameters:
            name, _, part = name.rpartition(".")
        parameter = self._parameters[name]
        if parameter.init is not None or parameter.role in CONSTANT:
            value = draw(self._config, name, parameter, self._seed)
            return target.of(value.to(self._dtype) if part is None else self._packed[name].pack(value)[part])
        if len(parameter.shape) < 3:
            return self._matrix(name, name, parameter.shape, part)
        if target.row is not None:
            return self._matrix(f"{name}[{target.row}]", name, parameter.shape[1:], part)
        first = self(Target(target.name, 0))
        whole = first.new_empty(parameter.shape[0], *first.shape)
        for row in range(parameter.shape[0]):
            whole[row] = self(Target(target.name, row)) if row else first
        return whole

    def _matrix(self, label: str, name: str, shape: tuple[int, ...], part: str | None) -> Tensor:
        """A matrix (out, in), or one of the tensors that it is packed into, a few million weights at a time.

        ``label``: what seeds it; ``name``: the parameter that it is, or is an expert of.
        """
        std = std_of(self._config, self._parameters[name].role)
        if part is None:
            whole = torch.empty(shape, dtype=self._dtype)
        else:
            packed = self._packed[name].tensors(shape)[part]
            whole = torch.empty(packed.shape, dtype=packed.dtype or self._dtype)
        step = max(1, WEIGHTS_AT_ONCE * shape[0] // prod(shape))
        for start, rows in enumerate(whole.split(step)):
            generator = torch.Generator().manual_seed(seed_of(self._seed, f"{label}/{start}"))
            if part is None:
                rows.normal_(0.0, std, generator=generator)
            else:
                rows.copy_(self._packed[name].draw((len(rows), *shape[1:]), std, generator)[part])
        return whole
