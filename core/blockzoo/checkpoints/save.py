"""Saving: a model -> a folder in a layout, whole or not at all, one tensor at a time beside the model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from blockzoo.checkpoints.atomic import check_room, new_folder, write_file
from blockzoo.checkpoints.end_tokens import how_to_generate
from blockzoo.checkpoints.family import Family, Layout, differences
from blockzoo.checkpoints.filling import Progress
from blockzoo.checkpoints.folder import shortened
from blockzoo.checkpoints.keymap import Entry, Target, Wants, identity
from blockzoo.checkpoints.load import GENERATION, NATIVE_CONFIG
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
    r"|blockzoo-download\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|vocab\.json|merges\.txt"
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
    if model.device.type == "meta":
        raise CheckpointError("a model on the meta device has no weights to save")
    entries, text = contents(model.config, layout, model.dtype, model.key_prefix, model.kept, registry=registry)
    tensors = Tensors(model)

    def made(target: Target) -> Tensor:
        return target.of(tensors[target.name])

    planned = [plan(entry, tensors[entry.targets[0].name].dtype, made) for entry in entries]
    write_checkpoint(folder, text, planned, shard_bytes)


def contents(
    config: ModelConfig,
    layout: str,
    dtype: torch.dtype,
    prefix: str | None = None,
    kept: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    *,
    registry: Registry,
) -> tuple[list[Entry], dict[str, str]]:
    """What a folder of this model in this layout holds: its tensors, and its text files by name.

    ``dtype``: what config.json calls the floats. ``prefix``: of the keys, where the layout knows it. ``kept``: by
    file, what a checkpoint that it was loaded from says beside the model. Raises CheckpointError if the layout can't
    say what the model is.
    """
    if layout == "native":
        beside = _beside(kept, config_has_ids=False)
        return identity(wanted(config)), {NATIVE_CONFIG: dump_yaml(config, registry), **beside}
    chosen = _layout(config, layout, registry)
    values = _config_json(config, chosen, registry)
    if chosen.typed:
        values |= {"dtype": str(dtype).removeprefix("torch."), **kept.get("config.json", {})}
    prefix = prefix if prefix in chosen.keys.prefixes else None
    entries = chosen.keys.entries(wanted(config), prefix, partial(_samples, chosen, registry))
    return entries, {"config.json": _text(values), **_beside(kept, config_has_ids=chosen.typed)}


def _beside(kept: Mapping[str, Mapping[str, Any]], *, config_has_ids: bool) -> dict[str, str]:
    generation = how_to_generate(kept, config_has_ids=config_has_ids)
    return {} if generation is None else {GENERATION: _text(generation)}


def _samples(layout: Layout, registry: Registry) -> list[Wants]:
    """The tensors of the layout's samples, those that can be read."""
    found: list[Wants] = []
    for sample in layout.samples:
        with suppress(BlockzooError):
            said = layout.read_config(sample.config_json)
            found.append(wanted(load_config({"name": "sample", **said}, registry=registry)))
    return found


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def plan(entry: Entry, dtype: torch.dtype, made: Callable[[Target], Tensor]) -> Planned:
    """One stored tensor, put together from canonical ones when its turn comes. ``dtype``: of a float one."""
    dtype = dtype if entry.dtype is None else entry.dtype
    return Planned(entry.stored, dtype, entry.shape, partial(_produce, entry, dtype, made))


def counted(planned: Sequence[Planned], progress: Progress) -> list[Planned]:
    """The same tensors; ``progress`` is told of each that is made."""
    total, done = sum(one.nbytes for one in planned), 0

    def made(one: Planned) -> Tensor:
        nonlocal done
        tensor = one.produce()
        done += one.nbytes
        progress(done, total)
        return tensor

    return [replace(one, produce=partial(made, one)) for one in planned]


def write_checkpoint(
    folder: str | Path,
    text: Mapping[str, str | bytes],
    planned: Sequence[Planned],
    shard_bytes: int,
    check: Callable[[Path], None] = lambda new: None,
) -> None:
    """Write a folder, whole or not at all. ``text``: its other files, by name; ``check`` is given it before it takes
    its place. Raises CheckpointError for one that holds other files, and where it does not fit on the disk.
    """
    check_room(Path(folder), sum(p.nbytes for p in planned) + sum(map(len, text.values())))
    with new_folder(Path(folder), replaceable=lambda name: OURS.fullmatch(name) is not None) as new:
        for name, content in text.items():
            write_file(new / name, content)
        with torch.no_grad():
            write_shards(new, planned, shard_bytes)
            check(new)


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


def _produce(entry: Entry, dtype: torch.dtype, made: Callable[[Target], Tensor]) -> Tensor:
    if entry.rule.plain:
        return made(entry.targets[0])
    whole = torch.empty(entry.shape, dtype=dtype)
    for target, view in zip(entry.targets, entry.views(whole), strict=True):
        view.copy_(made(target).reshape(view.shape))  # of groups, one axis more
    return whole
