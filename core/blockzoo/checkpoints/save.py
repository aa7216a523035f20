"""Saving: a model -> a folder in a layout, whole or not at all, one tensor at a time beside the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockzoo.checkpoints.atomic import new_folder, write_file
from blockzoo.checkpoints.family import Family, Layout, differences
from blockzoo.checkpoints.folder import shortened
from blockzoo.checkpoints.keymap import Entry, identity
from blockzoo.checkpoints.load import NATIVE_CONFIG
from blockzoo.checkpoints.safetensors_io import Planned, write_shards
from blockzoo.checkpoints.tensors import Tensors, wanted
from blockzoo.config import dump_yaml, load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import BlockzooError, CheckpointError, nearest
from blockzoo.model import Decoder
from blockzoo.registry import Registry

SHARD_BYTES = 5 * 10**9
OURS = re.compile(
    r"config\.json|blockzoo\.yaml|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|generation_config\.json|tokenizer\.json|tokenizer_config\.json|vocab\.json|merges\.txt"
)
"""Files of a checkpoint: a folder of nothing else may be replaced by saving again."""


def save_pretrained(
    model: Decoder, folder: str | Path, *, registry: Registry, layout: str = "hf", shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a checkpoint. Layouts: "native" for any model, and those of its family.

    Every tensor in the dtype the model holds it in, packed weights packed, tied ones once. Raises
    CheckpointError if the layout can't say what the model is, and for a folder that holds other files; nothing
    is written then.
    """
    config = model.config
    if model.device.type == "meta":
        raise CheckpointError("a model on the meta device has no weights to save")
    if layout == "native":
        entries, text = identity(wanted(config)), {NATIVE_CONFIG: dump_yaml(config, registry)}
    else:
        chosen = _layout(config, layout, registry)
        values = _config_json(config, chosen, registry)
        if chosen.typed:
            values["dtype"] = str(model.dtype).removeprefix("torch.")
        entries = chosen.keys.entries(
            wanted(config), model.key_prefix if model.key_prefix in chosen.keys.prefixes else None
        )
        text = {"config.json": json.dumps(values, indent=2) + "\n"}
    tensors = Tensors(model)
    planned = [_plan(entry, tensors) for entry in entries]
    with new_folder(Path(folder), replaceable=lambda name: OURS.fullmatch(name) is not None) as new:
        for name, content in text.items():
            write_file(new / name, content)
        with torch.no_grad():
            write_shards(new, planned, shard_bytes)


def _layout(config: ModelConfig, layout: str, registry: Registry) -> Layout:
    if config.family is None:
        raise CheckpointError(f"model '{config.name}' has no family, so only the layout 'native' can hold it")
    family: Family = registry.get("family", config.family)
    if layout not in family.layouts:
        known = [*family.layouts, "native"]
        raise CheckpointError(f"family '{family.name}' has no layout '{layout}'{nearest(layout, known)}")
    return family.layouts[layout]


def _config_json(config: ModelConfig, layout: Layout, registry: Registry) -> dict[str, Any]:
    """What the layout's config.json says of this model, proved by reading it back.

    Raises CheckpointError where it would be read as another model.
    """
    refusal = f"model '{config.name}' can't be saved in this layout; 'native' holds any model"
    try:
        if not config.layers:
            raise CheckpointError("it has no layers")
        values = layout.write_config(config)
        said = load_config({"name": config.name, **layout.read_config(values)}, registry=registry)
    except BlockzooError as error:
        raise CheckpointError(f"{refusal}: {error}") from error
    found = differences(config, said, layout.unsaid)
    if found:
        raise CheckpointError("\n".join([f"{refusal}. Its config.json would say another model:", *shortened(found)]))
    return values


def _plan(entry: Entry, tensors: Tensors) -> Planned:
    dtype = tensors[entry.targets[0].name].dtype if entry.dtype is None else entry.dtype
    return Planned(entry.stored, dtype, entry.shape, partial(_produce, entry, tensors, dtype))


def _produce(entry: Entry, tensors: Mapping[str, Tensor] | Tensors, dtype: torch.dtype) -> Tensor:
    if entry.rule.plain:
        return entry.targets[0].of(tensors[entry.targets[0].name])
    whole = torch.empty(entry.shape, dtype=dtype)
    for target, view in zip(entry.targets, entry.views(whole), strict=True):
        view.copy_(target.of(tensors[target.name]))
    return whole
