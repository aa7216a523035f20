"""Filling an allocated model from its stored tensors: mapped, read straight into place, or by way of a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from blockzoo.checkpoints.keymap import Entry
from blockzoo.checkpoints.mapped import Maps
from blockzoo.checkpoints.places import Places
from blockzoo.checkpoints.safetensors_io import StoredTensor

Progress = Callable[[int, int], None]
"""Is told bytes done and bytes in all."""
MOST_READERS = 8
Mapped = bool | Literal["embedding"]
"""Which weights stay in their files: none, all, or the embedding table alone, whose rows are looked up."""
TABLE = "embedding.tokens."


def mapped_words(mapped: Mapped) -> list[str]:
    """What is mapped, for a list of what a model is."""
    return ["embedding mapped" if mapped == "embedding" else "mapped"] if mapped else []


def silent(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Filled:
    """How many bytes of weights were mapped, and how many read."""

    mapped: int
    read: int


@torch.no_grad()
def fill(
    entries: Sequence[Entry],
    stored: Mapping[str, StoredTensor],
    places: Places,
    *,
    mapped: Mapped = False,
    progress: Progress = silent,
) -> Filled:
    """Put every entry's tensor into its places.

    What has the bytes of its place is read into it by as many threads as torch computes with. Raises CheckpointError
    for values that are no weights, but for those that are mapped: looking would read all that is left to be read later;
    InputError, before any is read, where memory is too small.
    """
    maps = Maps() if mapped else None
    prefix = TABLE if mapped == "embedding" else ""
    direct: list[tuple[Entry, Tensor]] = []
    copied: list[Entry] = []
    total, held = sum(stored[entry.stored].nbytes for entry in entries), 0
    for entry in entries:
        source = stored[entry.stored]
        if maps is not None and entry.targets[0].name.startswith(prefix) and _map(entry, source, places, maps):
            held += source.nbytes
        elif entry.rule.plain and (place := places.like(entry.targets[0], source.dtype)) is not None:
            direct.append((entry, place))
        else:
            copied.append(entry)
    places.check_memory(held)
    done = held
    for one in _read(direct, copied, stored, places):
        done += one.nbytes
        progress(done, total)
    places.finish()
    return Filled(held, total - held)


def _map(entry: Entry, source: StoredTensor, places: Places, maps: Maps) -> bool:
    """Whether the model now holds the file's own bytes."""
    if not entry.rule.plain or not places.holds(entry.targets[0], source.dtype):
        return False
    view = maps.view(source)
    if view is not None:
        places.hold(entry.targets[0], view)
    return view is not None


def _read(
    direct: Sequence[tuple[Entry, Tensor]],
    copied: Sequence[Entry],
    stored: Mapping[str, StoredTensor],
    places: Places,
) -> Iterator[StoredTensor]:
    """Read all; each stored tensor when it is in its places."""
    readers = ThreadPoolExecutor(min(MOST_READERS, torch.get_num_threads()), "reader")

    def read(entry: Entry, place: Tensor) -> StoredTensor:
        source = stored[entry.stored]
        for piece in source.read_into(place):
            places.check(entry.targets[0], piece, source)
        return source

    try:
        tasks = [readers.submit(read, entry, place) for entry, place in direct]
        yield from (task.result() for task in as_completed(tasks))
        for entry in copied:
            _copy(entry, stored[entry.stored], places)
            yield stored[entry.stored]
    finally:
        readers.shutdown(cancel_futures=True)


def _copy(entry: Entry, source: StoredTensor, places: Places) -> None:
    if entry.rule.plain:
        for row, chunk in source.chunks():
            places.check(entry.targets[0], chunk, source)
            places.put(entry.targets[0], chunk, row)
        return
    whole = source.read()
    for target, view in zip(entry.targets, entry.views(whole), strict=True):
        row = 0
        for rows in view if entry.groups > 1 else (view,):
            places.check(target, rows, source)
            places.put(target, rows, row)
            row += len(rows)
