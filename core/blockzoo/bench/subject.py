"""What is measured: a folder of weights, and its configs as stored and as asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blockzoo.blocks import QuantizerConfig
from blockzoo.checkpoints.filling import Mapped, Progress, silent
from blockzoo.checkpoints.folder import stored_tensors
from blockzoo.checkpoints.load import open_checkpoint
from blockzoo.checkpoints.random_weights import write_random
from blockzoo.checkpoints.whole_reads import whole_read
from blockzoo.config import dump
from blockzoo.config.schema import ModelConfig
from blockzoo.memory_plan import Device, Use, quantized, split
from blockzoo.registry import Registry

STREAMED = 16 * 2**20


@dataclass(frozen=True)
class Subject:
    """One model. ``dtype``: of floats as they compute; ``overrides``: what makes ``stored`` into ``config``."""

    folder: Path
    layout: str
    random: bool
    stored: ModelConfig
    config: ModelConfig
    dtype: torch.dtype
    overrides: dict[str, Any]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the folder's tensors."""
        return sum(tensor.nbytes for tensor in stored_tensors(self.folder).values())

    def planned_bytes(
        self, context: int, prompt: int, registry: Registry, *, mapped: Mapped, exact: bool = False
    ) -> int:
        """What `blockzoo plan` says that a process takes; ``exact``: of the stored weights in float32."""
        config, dtype = (self.stored, torch.float32) if exact else (self.config, self.dtype)
        use = Use(
            config,
            context=context,
            prompt=prompt,
            dtype=dtype,
            map_embedding=bool(mapped) and not config.embedding.tied,
            read_whole=whole_read(self.stored, config, dtype, registry=registry),
            kernels=registry.kernels(),
        )
        (share,) = split(use, [Device("memory", 2**63)])
        return share.total


def of_folder(
    folder: Path,
    settings: Mapping[str, object],
    quantizers: Mapping[str, QuantizerConfig | None],
    dtype: torch.dtype | None,
    *,
    registry: Registry,
    random: bool = False,
) -> Subject:
    """``dtype`` None: as stored. Raises what `from_pretrained` raises before it reads weights."""
    opened = open_checkpoint(folder, registry=registry, overrides=settings)
    source, config = opened.source, opened.config
    overrides = dict(settings)
    if quantizers:
        config = quantized(config, quantizers)
        written = dump(config, registry)
        overrides |= {part: written[part] for part in ("blocks", "layers", "embedding", "head") if part in written}
    return Subject(folder, source.layout, random, source.config, config, dtype or opened.dtype, overrides)


def drawn(
    config: ModelConfig,
    folder: Path,
    dtype: torch.dtype,
    *,
    registry: Registry,
    progress: Progress = silent,
) -> None:
    """Write random weights of a config into a folder, in the layout that most engines read."""
    layout = "native" if config.family is None else "hf"
    write_random(config, folder, registry=registry, layout=layout, dtype=dtype, progress=progress)


def read_once(path: Path) -> None:
    """Bring a file, or a folder's files, into the system's cache: loading is measured hot."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.read(STREAMED):
                    pass
