"""Loading: folder -> config -> an allocated model -> every stored tensor copied straight into its place -> bound.

Everything that can be known from headers is checked before anything is allocated. Memory is the model plus one
stored tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from blockzoo.accounting import parameters_of
from blockzoo.building import empty
from blockzoo.checkpoints import hub
from blockzoo.checkpoints.config_json import TOKEN_IDS
from blockzoo.checkpoints.family import Family
from blockzoo.checkpoints.folder import name_of, path_in, read_config_json, read_json, shortened, stored_tensors
from blockzoo.checkpoints.keymap import Entry, Target, check, check_size, identity
from blockzoo.checkpoints.places import Places
from blockzoo.checkpoints.safetensors_io import StoredTensor
from blockzoo.checkpoints.tensors import wanted
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, ConfigError
from blockzoo.model import Decoder
from blockzoo.registry import Registry

NATIVE_CONFIG = "blockzoo.yaml"
GENERATION = "generation_config.json"
VALUES_AT_ONCE = 4 * 2**20


@dataclass(frozen=True)
class Source:
    """A checkpoint folder, recognised. ``family`` None: the native layout."""

    folder: Path
    config: ModelConfig
    family: Family | None
    layout: str


def read_config(
    folder: str | Path, *, registry: Registry, overrides: Mapping[str, object] | None = None
) -> ModelConfig:
    """The config of a checkpoint folder (or hub reference) in any known layout; no weight is read."""
    return recognize(hub.local_folder(folder, hub.CONFIG), registry=registry, overrides=overrides).config


def recognize(folder: Path, *, registry: Registry, overrides: Mapping[str, object] | None = None) -> Source:
    """Which layout a folder is in, and its config. Raises CheckpointError or ConfigError where none fits."""
    if (folder / NATIVE_CONFIG).exists():
        return Source(folder, load_config(path_in(folder, NATIVE_CONFIG), overrides, registry=registry), None, "native")
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: holds neither {NATIVE_CONFIG} nor config.json")
    values = read_config_json(folder)
    family, name = _claimed(folder, values, registry)
    try:
        mapping = {"name": name_of(folder) or "model", **family.layouts[name].read_config(values)}
    except CheckpointError as error:
        raise CheckpointError("\n".join(f"{folder}: {line}" for line in str(error).splitlines())) from error
    try:
        return Source(folder, load_config(mapping, overrides, registry=registry), family, name)
    except ConfigError as error:  # the overrides' problems have places of their own
        here = f"{folder}: config.json"
        raise ConfigError([replace(p, place=here) if p.place == "mapping" else p for p in error.problems]) from error


def _claimed(folder: Path, values: Mapping[str, Any], registry: Registry) -> tuple[Family, str]:
    """The one family, and the layout of it, that a config.json is of."""
    families = registry.families()
    known = [
        (family, name)
        for family in families.values()
        for name, layout in family.layouts.items()
        if layout.recognizes(values)
    ]
    if len(known) == 1:
        return known[0]
    what = f"{folder / 'config.json'}: model_type {str(values.get('model_type'))[:60]!r}"
    if known:
        claims = ", ".join(f"{family.name} ({name})" for family, name in known)
        raise CheckpointError(f"{what} is claimed by {claims}; disable a plugin: `blockzoo plugins disable NAME`")
    raise CheckpointError(
        f"{what} is claimed by no family; there are: {', '.join(sorted(families))}."
        " `blockzoo plugins` lists the plugins that could bring it, and those that did not load"
    )


def from_pretrained(
    ref: str | Path,
    *,
    registry: Registry,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["stored"] = "stored",
    trainable: bool = False,
    overrides: Mapping[str, object] | None = None,
) -> Decoder:
    """A model from a local folder or hub reference, in any layout that a family knows.

    ``dtype``: of the floats, or "stored" to keep each as it is. Packed weights stay packed, except for
    ``trainable``, which unpacks them into masters. ``overrides`` change the config; a quantizer among them packs
    what is stored as floats. Raises CheckpointError with everything that doesn't fit, before anything is
    allocated.
    """
    place = hub.pinned(ref)
    if isinstance(place, hub.Reference):  # before gigabytes are fetched
        recognize(hub.local_folder(place, hub.CONFIG), registry=registry)
    folder = hub.local_folder(place)
    source = recognize(folder, registry=registry)
    config = source.config if not overrides else recognize(folder, registry=registry, overrides=overrides).config
    _check_shapes(source.config, config)
    stored = stored_tensors(folder)
    entries, prefix = _entries(source, stored)
    float_dtype = _stored_dtype(entries, stored) if dtype == "stored" else dtype
    model = empty(config, registry=registry, device=device, dtype=float_dtype, trainable=trainable)
    places = Places(model, wanted(source.config), keep_dtypes=dtype == "stored")
    with torch.no_grad():
        for entry in entries:
            _fill(entry, stored[entry.stored], places)
    places.finish()
    model.key_prefix, model.kept = prefix, _kept(folder)
    model.bind()
    return model


def _kept(folder: Path) -> dict[str, dict[str, Any]]:
    """By file, what saving again must not lose though the model doesn't compute with it."""
    there = {name: read_json(folder, name) for name in ("config.json", GENERATION) if (folder / name).exists()}
    if "config.json" in there:
        there["config.json"] = {key: value for key, value in there["config.json"].items() if key in TOKEN_IDS}
    return there


def _check_shapes(stored: ModelConfig, overridden: ModelConfig) -> None:
    """Overrides may change what a model computes and how it stores weights, not which weights it has."""
    was, now = ({name: w.shape for name, w in parameters_of(c).items()} for c in (stored, overridden))
    problems = [
        f"'{name}' is {_size(was, name)} in the checkpoint, {_size(now, name)} in the model"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    if problems:
        raise CheckpointError("\n".join(["the overrides don't fit the checkpoint's weights:", *shortened(problems)]))


def _size(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(shapes[name]) if name in shapes else "absent"


def _entries(source: Source, stored: Mapping[str, StoredTensor]) -> tuple[list[Entry], str | None]:
    """The stored tensors in the order of their places in the files, all checked; and the prefix of the keys."""
    want, where = wanted(source.config), str(source.folder)
    check_size(want, stored, where)
    if source.family is None:
        entries, prefix, extra = identity(want), None, []
    else:
        keys = source.family.layouts[source.layout].keys
        prefix = keys.prefix_of(stored)
        entries = keys.entries(want, prefix)
        taken = {entry.stored for entry in entries}
        copies = [(c.format(prefix=prefix), of.format(prefix=prefix)) for c, of in keys.copies.items()]
        copies = [(copy, of) for copy, of in copies if copy in stored and copy not in taken and of in stored]
        _check_copies(copies, stored, where)
        extra = [name for name in stored if keys.is_weightless(name, prefix)] + [copy for copy, _ in copies]
    check(entries, stored, where, extra)
    return sorted(entries, key=lambda entry: (stored[entry.stored].path, stored[entry.stored].offset)), prefix


def _check_copies(copies: Sequence[tuple[str, str]], stored: Mapping[str, StoredTensor], where: str) -> None:
    """A tied weight may be stored twice, if both are the same."""
    for copy, of in copies:
        a, b = stored[copy], stored[of]
        same = (a.dtype, a.shape) == (b.dtype, b.shape) and all(
            torch.equal(x.view(torch.uint8), y.view(torch.uint8))
            for (_, x), (_, y) in zip(a.chunks(), b.chunks(), strict=True)
        )
        if not same:
            raise CheckpointError(f"{where}: the config ties '{copy}' to '{of}', but their values differ")


def _stored_dtype(entries: Sequence[Entry], stored: Mapping[str, StoredTensor]) -> torch.dtype:
    """The dtype of the token embedding, or of the first float where that is packed."""
    floats = {
        target.name: stored[entry.stored].dtype for entry in entries for target in entry.targets if entry.dtype is None
    }
    return floats.get("embedding.tokens.weight") or next(iter(floats.values()))


def _fill(entry: Entry, stored: StoredTensor, places: Places) -> None:
    if entry.rule.plain:
        target = entry.targets[0]
        for row, chunk in stored.chunks():
            _check_values(chunk, stored, places, target)
            places.put(target, chunk, row)
        return
    whole = stored.read()
    for target, view in zip(entry.targets, entry.views(whole), strict=True):
        _check_values(view, stored, places, target)
        places.put(target, view)


def _check_values(values: Tensor, stored: StoredTensor, places: Places, target: Target) -> None:
    where = f"{stored.path}: tensor '{stored.name}'"
    reason = places.invalid(target, values)
    if reason:
        raise CheckpointError(f"{where} {reason}")
    if values.is_floating_point() and any(bool(part.isnan().any()) for part in _pieces(values)):
        raise CheckpointError(f"{where} has NaN in it")


def _pieces(values: Tensor) -> Iterator[Tensor]:
    """A tensor in pieces along its first axis, so that a mask over one stays small."""
    if values.dim() == 0 or values.numel() <= VALUES_AT_ONCE:
        return iter((values,))
    return iter(values.split(max(1, VALUES_AT_ONCE * len(values) // values.numel())))
