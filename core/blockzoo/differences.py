"""What two models differ in, option by option, from their complete configs.

How a model was written doesn't count: ``extends``, ``use``, patterns and defaults are gone from a ModelConfig. Name,
family, tokenizer and required plugins are no architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from blockzoo.blocks import BlockConfig
from blockzoo.config.schema import LayerConfig, ModelConfig

NO_ARCHITECTURE = frozenset({"name", "family", "tokenizer", "requires", "layers"})


@dataclass(frozen=True)
class Change:
    """One option, or one whole block, that isn't the same.

    ``place``: ``model``, a section, or a slot of the layers. ``option`` is empty where a whole block is another, or is
    there in one model only. ``layers``: which of the second model's layers have it, empty where all do.
    """

    place: str
    option: str
    before: Any
    after: Any
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One of the different blocks of a slot, and the layers that have it."""

    block: BlockConfig | None
    layers: tuple[int, ...]


def differences(before: ModelConfig, after: ModelConfig) -> list[Change]:
    """Every change from one model to another; none where they compute the same, however they were written."""
    before, after = before.explicit(), after.explicit()
    found = list(_options("model", before, after, leave_out=NO_ARCHITECTURE))
    if before.n_layers != after.n_layers:
        found.append(Change("layers", "count", before.n_layers, after.n_layers))
    for slot in LayerConfig.model_fields:
        changes = _slot(slot, variants(before.layers, slot), variants(after.layers, slot))
        found += _merged(list(changes), after.n_layers)
    return found


def variants(layers: Sequence[LayerConfig], slot: str) -> list[Variant]:
    """The different blocks of one slot in the order of their first layers."""
    found: list[tuple[BlockConfig | None, list[int]]] = []
    for index, layer in enumerate(layers):
        block = getattr(layer, slot)
        for known, indices in found:
            if known == block:
                indices.append(index)
                break
        else:
            found.append((block, [index]))
    return [Variant(block, tuple(indices)) for block, indices in found]


def _slot(slot: str, before: Sequence[Variant], after: Sequence[Variant]) -> Iterator[Change]:
    """Each of the new blocks against the old one that is most like it; then what is left of the old ones."""
    pairs = [(_nearest(new, before), new) for new in after]
    for old, new in pairs:
        yield from (replace(change, layers=new.layers) for change in _blocks(slot, old.block, new.block))
    for old in before:
        if all(chosen is not old for chosen, _ in pairs):
            yield Change(slot, "", old.block, None)
    counterparts = [Variant(old.block, new.layers) for old, new in pairs]
    if len(before) == len(after) > 1 and _arrangement(before) != _arrangement(counterparts):
        yield Change(slot, "layers", [v.layers for v in before], [v.layers for v in counterparts])


def _nearest(new: Variant, column: Sequence[Variant]) -> Variant:
    return min(column, key=lambda old: len(list(_blocks("", old.block, new.block))))


def _merged(changes: Sequence[Change], n_layers: int) -> Iterator[Change]:
    """One change for what several variants of a slot have in common; without layers where all have it."""
    found: list[Change] = []
    for change in changes:
        same = [index for index, known in enumerate(found) if replace(known, layers=change.layers) == change]
        if same:
            found[same[0]] = replace(change, layers=tuple(sorted(found[same[0]].layers + change.layers)))
        else:
            found.append(change)
    yield from (replace(change, layers=()) if len(change.layers) == n_layers else change for change in found)


def _arrangement(column: Sequence[Variant]) -> list[BlockConfig | None]:
    """Which of the blocks stands in which layer, as far as the pattern is its own: depth alone changes nothing."""
    blocks = [block for _, block in sorted(((i, v.block) for v in column for i in v.layers), key=lambda one: one[0])]
    periods = (p for p in range(1, len(blocks)) if all(b == blocks[i % p] for i, b in enumerate(blocks)))
    return blocks[: next(periods, len(blocks))]


def _blocks(place: str, before: BaseModel | None, after: BaseModel | None) -> Iterator[Change]:
    if before == after:
        return
    if before is None or after is None or type(before) is not type(after):
        yield Change(place, "", before, after)
    else:
        yield from _options(place, before, after)


def _options(
    place: str, before: BaseModel, after: BaseModel, leave_out: frozenset[str] = frozenset()
) -> Iterator[Change]:
    for name in type(after).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if name in leave_out or old == new:
            continue
        if isinstance(old, BaseModel) or isinstance(new, BaseModel):
            yield from _blocks(name if place == "model" else f"{place}.{name}", old, new)
        else:
            yield Change(place, name, old, new)
