"""Loading: folder -> config -> an allocated model -> every stored tensor straight in its place, or mapped -> bound.

Everything that can be known from headers is checked before anything is allocated. Memory is the model plus one
stored tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from blockzoo.accounting import parameters_of
from blockzoo.building import empty
from blockzoo.checkpoints import hub
from blockzoo.checkpoints.config_json import TOKEN_IDS
from blockzoo.checkpoints.family import Family
from blockzoo.checkpoints.filling import Filled, Mapped, Progress, fill, silent
from blockzoo.checkpoints.fitting import check, check_size
from blockzoo.checkpoints.folder import holds, name_of, path_in, read_config_json, read_json, shortened, stored_tensors
from blockzoo.checkpoints.keymap import Entry, identity
from blockzoo.checkpoints.places import Places
from blockzoo.checkpoints.safetensors_io import StoredTensor
from blockzoo.checkpoints.tensors import wanted
from blockzoo.checkpoints.variants import keys_behind
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, ConfigError, InputError, Problem
from blockzoo.memory_plan import check_mapped_table
from blockzoo.model import Decoder
from blockzoo.registry import Registry

NATIVE_CONFIG = "blockzoo.yaml"
GENERATION = "generation_config.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A checkpoint folder, recognised. ``family`` None: the native layout."""

    folder: Path
    config: ModelConfig
    family: Family | None
    layout: str


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose tensors fit its config; nothing but headers is read. ``config``: with the overrides;
    ``entries``: in the order of their places in the files; ``prefix``: of the keys.
    """

    source: Source
    config: ModelConfig
    stored: Mapping[str, StoredTensor]
    entries: Sequence[Entry]
    prefix: str | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the token embedding, or of the first float where that is packed."""
        floats = {
            target.name: self.stored[entry.stored].dtype
            for entry in self.entries
            for target in entry.targets
            if entry.dtype is None
        }
        return floats.get("embedding.tokens.weight") or next(iter(floats.values()))


def read_config(
    folder: str | Path, *, registry: Registry, overrides: Mapping[str, object] | None = None
) -> ModelConfig:
    """The config of a checkpoint folder (or hub reference) in any known layout; no weight is read."""
    return recognize(hub.local_folder(folder, hub.CONFIG), registry=registry, overrides=overrides).config


def recognize(folder: Path, *, registry: Registry, overrides: Mapping[str, object] | None = None) -> Source:
    """Which layout a folder is in, and its config. Raises CheckpointError or ConfigError where none fits."""
    if holds(folder, NATIVE_CONFIG):
        file = path_in(folder, NATIVE_CONFIG)
        return Source(folder, load_config(file, overrides, registry=registry, alone=True), None, "native")
    if not holds(folder, "config.json"):
        raise CheckpointError(f"{folder}: holds neither {NATIVE_CONFIG} nor config.json{meant(folder)}")
    values = read_config_json(folder)
    family, name = _claimed(folder, values, registry)
    read = family.layouts[name].read_config
    try:
        mapping = {"name": name_of(folder) or "model", **read(values)}
    except CheckpointError as error:
        raise CheckpointError("\n".join(f"{folder}: {line}" for line in str(error).splitlines())) from error
    try:
        return Source(folder, load_config(mapping, overrides, registry=registry), family, name)
    except ConfigError as error:  # the overrides' problems have places of their own
        problems = [_in_file(p, folder, values, read) if p.place == "mapping" else p for p in error.problems]
        raise ConfigError(problems) from error


def meant(folder: Path) -> str:
    """Which folder was meant, in words: one inside, or, by those of a run's steps, its trained model."""
    steps = "checkpoints"
    run = {folder.parent.name: folder.parent.parent, folder.name: folder.parent}.get(steps, folder)
    found = sorted({file.parent for name in (NATIVE_CONFIG, "config.json") for file in run.glob(f"*/{name}")})
    what = f"{steps} of steps are for going on with a run; its trained model" if run != folder else "a checkpoint"
    more = f" (and {len(found) - 1} more folders beside it)" if len(found) > 1 else ""
    return f"; {what} is in {found[0]}{more}: name that" if found else ""


def _in_file(
    problem: Problem, folder: Path, values: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Problem:
    """A problem of what was read, told of config.json: with the keys that the place was made from."""
    place = problem.message.partition(": ")[0]
    keys = keys_behind(place, values, read)
    said = f"; {place} comes from {', '.join(map(repr, keys))}" if keys else ""
    return Problem(f"{folder}: config.json", f"{problem.message}{said}")


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


def open_checkpoint(folder: Path, *, registry: Registry, overrides: Mapping[str, object] | None = None) -> Opened:
    """A local folder, checked. Raises CheckpointError with everything that doesn't fit."""
    source = recognize(folder, registry=registry)
    config = source.config if not overrides else recognize(folder, registry=registry, overrides=overrides).config
    check_shapes(source.config, config)
    stored = stored_tensors(folder)
    return Opened(source, config, stored, *_entries(source, stored))


def from_pretrained(
    ref: str | Path,
    *,
    registry: Registry,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["stored"] = "stored",
    trainable: bool = False,
    overrides: Mapping[str, object] | None = None,
    mapped: Mapped = False,
    progress: Progress = silent,
) -> Decoder:
    """A model from a local folder or hub reference, in any layout that a family knows.

    ``dtype``: of the floats, or "stored" to keep each as it is. Packed weights stay packed, except for
    ``trainable``, which unpacks them into masters. ``overrides`` change the config; a quantizer among them packs
    what is stored as floats. ``mapped``: weights whose stored bytes are the model's own stay in their files, see
    ``mapped.py``; the rest is read, and a line says how much. ``mapped="embedding"``: the embedding table alone, of
    which a token uses one row. Raises CheckpointError with everything that doesn't fit, before anything is allocated;
    InputError for ``mapped`` weights that are to train, or to leave the host, for a table that is the unembedding, and
    for weights that find no room in memory.
    """
    if mapped not in (False, True, "embedding"):
        raise InputError(f"mapped={mapped!r}: must be True, False or 'embedding'")
    if mapped and (trainable or torch.device(device).type != "cpu"):
        why = "weights that train" if trainable else f"weights on {device}"
        raise InputError(f"{why} can't be mapped from a file: leave mapped out, or run the model on the CPU")
    place = hub.pinned(ref)
    if isinstance(place, hub.Reference):  # before gigabytes are fetched
        recognize(hub.local_folder(place, hub.CONFIG), registry=registry)
    opened = open_checkpoint(hub.local_folder(place), registry=registry, overrides=overrides)
    source, config = opened.source, opened.config
    if mapped == "embedding":
        check_mapped_table(config)
    float_dtype = opened.dtype if dtype == "stored" else dtype
    model = empty(config, registry=registry, device=device, dtype=float_dtype, trainable=trainable)
    places = Places(model, wanted(source.config), keep_dtypes=dtype == "stored")
    filled = fill(opened.entries, opened.stored, places, mapped=mapped, progress=progress)
    lacking = not filled.mapped if mapped == "embedding" else filled.read
    if mapped and lacking:
        _say_what_was_read(source, filled)
    model.key_prefix, model.kept = opened.prefix, kept_beside(source.folder)
    model.bind()
    return model


def _say_what_was_read(source: Source, filled: Filled) -> None:
    log.warning(
        "%s: %.2f of %.2f GB of weights are mapped; the rest is read, since layout %s fuses or transposes it, or it is"
        " of another dtype than the model: `blockzoo convert` to native makes it mappable",
        source.folder,
        filled.mapped / 1e9,
        (filled.mapped + filled.read) / 1e9,
        source.layout,
    )


def kept_beside(folder: Path) -> dict[str, dict[str, Any]]:
    """By file, what saving again must not lose though the model doesn't compute with it."""
    there = {name: read_json(folder, name) for name in ("config.json", GENERATION) if holds(folder, name)}
    if "config.json" in there:
        there["config.json"] = {key: value for key, value in there["config.json"].items() if key in TOKEN_IDS}
    return there


def check_shapes(stored: ModelConfig, overridden: ModelConfig) -> None:
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
