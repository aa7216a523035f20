"""How verbs open the model that an argument names, and its tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, read_config
from blockzoo.checkpoints.filling import Mapped
from blockzoo.cli.output import note
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.config.shipped import SUFFIXES, shipped
from blockzoo.errors import InputError, nearest
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer, load_tokenizer, tokenizer_name
from blockzoo.training.folder import open_run

DTYPES: dict[str, torch.dtype | Literal["stored"]] = {
    "stored": "stored",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


MapAll = Annotated[
    bool, typer.Option("--mapped", help="leave weights in their file, mapped: at once there, only used pages resident")
]
MapEmbedding = Annotated[
    bool, typer.Option("--map-embedding", help="leave the embedding table alone in its file: only used rows resident")
]


def mapped_of(everything: bool, table: bool) -> Mapped:
    """What ``--mapped`` and ``--map-embedding`` mean together."""
    return everything or ("embedding" if table else False)


def dtype_named(name: str) -> torch.dtype | Literal["stored"]:
    """What ``--dtype`` means. Raises InputError."""
    if name not in DTYPES:
        raise InputError(f"--dtype {name}{nearest(name, DTYPES)}")
    return DTYPES[name]


def open_model(
    ref: str, device: str, dtype: torch.dtype | Literal["stored"], *, registry: Registry, mapped: Mapped = False
) -> Decoder:
    """The model that a reference means. A config's name gives random weights, with a warning."""
    folder = folder_of_run(ref)
    if not _is_config(folder, registry):
        if not sys.stderr.isatty():  # rich's progress imports slowly
            return from_pretrained(folder, device=device, dtype=dtype, registry=registry, mapped=mapped)
        from blockzoo.cli.bar import megabytes

        with megabytes(Path(folder).name) as progress:
            return from_pretrained(
                folder, device=device, dtype=dtype, registry=registry, mapped=mapped, progress=progress
            )
    if mapped:
        flag = "--mapped" if mapped is True else "--map-embedding"
        raise InputError(f"{flag}: {ref} is a config without weights, there is no file to map; name a checkpoint")
    config = load_config(ref, registry=registry)
    note(f"blockzoo: warning: {config.name} is a config without weights: they are drawn at random, the text is noise")
    return build(config, registry=registry, device=device, dtype=torch.float32 if dtype == "stored" else dtype)


def open_config(ref: str, *, registry: Registry) -> ModelConfig:
    """The config alone; nothing else is read."""
    folder = folder_of_run(ref)
    return (
        load_config(ref, registry=registry) if _is_config(folder, registry) else read_config(folder, registry=registry)
    )


def open_tokenizer(ref: str, *, registry: Registry) -> Tokenizer:
    """The tokenizer alone; no weight is read."""
    folder = folder_of_run(ref)
    if _is_config(folder, registry):
        folder = tokenizer_name(load_config(ref, registry=registry), registry=registry)
    return load_tokenizer(folder, registry=registry)


def folder_of_run(ref: str) -> str:
    """A run's model; any other reference as it is."""
    run = open_run(Path(ref))
    if run is None:
        return ref
    if not run.model.is_dir():
        state = run.status()["state"]
        raise InputError(f"{ref}: this run is {state}, it has no trained model yet; go on training it first")
    return str(run.model)


def _is_config(ref: str, registry: Registry) -> bool:
    return not Path(ref).is_dir() and (ref in shipped(registry) or ref.endswith(SUFFIXES) or "/" not in ref)
