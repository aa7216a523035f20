"""What stands in the figure of a model: boxes from the tokens at the bottom to the logits at the top.

A box says what its block is and each option that is no default, in words, so blocks of plugins draw themselves. Layers
that repeat are drawn once; where a slot alternates inside a period its box says which share of the layers has what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from blockzoo.accounting import account
from blockzoo.blocks import BlockConfig
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.differences import Variant, variants
from blockzoo.registry import Registry
from blockzoo.words import in_words, options, title

LONGEST_PERIOD = 16
"""Of layers that are drawn as one; patterns in use are shorter (Gemma 3: 6, Jamba: 8)."""


SHARED_NORM = "norm"
"""What residuals call a norm that both branches read."""


@dataclass(frozen=True)
class Box:
    """One block. ``key`` tells the same place in another model's figure, ``kind`` its colour."""

    key: str
    kind: str
    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Branch:
    """Boxes between a split and a sum of the residual stream, in the order of computation; norms may stand after."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Layers:
    """Layers drawn once. ``parallel``: the branches read the same input and are summed together."""

    count: int
    branches: tuple[Branch, ...]
    parallel: bool
    note: str


@dataclass(frozen=True)
class Figure:
    """One model, ``parts`` in the order of computation."""

    name: str
    facts: tuple[str, ...]
    parts: tuple[Box | Layers, ...]

    def boxes(self) -> Iterator[Box]:
        """Every box, in the order of computation."""
        for part in self.parts:
            if isinstance(part, Box):
                yield part
            else:
                yield from (box for branch in part.branches for box in branch.boxes)


def figure(config: ModelConfig, registry: Registry) -> Figure:
    """The figure of one model."""
    costs = account(config)
    parameters = costs.parameters
    facts = (
        f"{_count(parameters['total'])} parameters, {_count(parameters['active'])} active",
        f"width {config.d_model:,}, {config.n_layers} layers",
        f"context {config.context_length:,}",
    )
    stretches = list(repeats(config.layers))
    layers = [_layers(index, stretch, len(stretches), config, registry) for index, stretch in enumerate(stretches)]
    return Figure(config.name, facts, (*_entry(config, registry), *layers, *_exit(config, registry)))


def repeats(layers: Sequence[LayerConfig]) -> Iterator[tuple[int, tuple[LayerConfig, ...]]]:
    """Stretches of a model: (how many layers, the shortest period that repeats through them), greedily the longest."""
    start = 0
    while start < len(layers):
        best, length = 1, 1
        for period in range(1, min(LONGEST_PERIOD, (len(layers) - start) // 2) + 1):
            end = start + period
            while end < len(layers) and layers[end] == layers[end - period]:
                end += 1
            reached = (end - start) // period * period
            if reached >= 2 * period and reached > length:
                best, length = period, reached
        yield length, tuple(layers[start : start + best])
        start += length


def _entry(config: ModelConfig, registry: Registry) -> Iterator[Box]:
    embedding = config.embedding
    lines = [f"vocabulary {config.vocab_size:,}", *options(embedding, registry)]
    yield Box("embedding", "embedding", "Token embedding", tuple(lines))


def _exit(config: ModelConfig, registry: Registry) -> Iterator[Box]:
    head = config.head
    if head.norm is not None:
        yield Box("head.norm", "norm", f"Final {label(head.norm, registry)}", tuple(options(head.norm, registry)))
    lines = options(head.model_copy(update={"norm": None}), registry)
    tied = ["the embedding's matrix"] if config.embedding.tied else []
    yield Box("head", "embedding", "Linear output", (*tied, *lines))


def _layers(
    index: int, stretch: tuple[int, tuple[LayerConfig, ...]], n_stretches: int, config: ModelConfig, registry: Registry
) -> Layers:
    count, period = stretch
    first = period[0]
    has = first.mixer is not None, first.ffn is not None
    norms = first.residual.norms(*has)
    at = f"layers.{index}." if n_stretches > 1 else "layers."
    branches = [
        Branch(tuple(_branch(at, slot, norms, period, registry)))
        for slot, present in zip(("mixer", "ffn"), has, strict=True)
        if present
    ]
    joined = options(first.residual, registry)
    note = f"{label(first.residual, registry)}" + (f" ({', '.join(joined)})" if joined else "")
    return Layers(count, tuple(branches), first.residual.parallel, note)


def _branch(
    at: str, slot: str, norms: Sequence[str], period: Sequence[LayerConfig], registry: Registry
) -> Iterator[Box]:
    mine = [name for name in norms if name.startswith(slot) or name == SHARED_NORM]
    boxes = {name: _slot(at + name, "norm", "norm", period, registry) for name in mine}
    if SHARED_NORM in boxes:
        box = boxes[SHARED_NORM]
        boxes[SHARED_NORM] = replace(box, lines=(*box.lines, "one for both branches"))
    yield from (box for name, box in boxes.items() if not name.endswith("post_norm"))
    yield _slot(at + slot, slot, slot, period, registry)
    yield from (box for name, box in boxes.items() if name.endswith("post_norm"))


def _slot(key: str, slot: str, kind: str, period: Sequence[LayerConfig], registry: Registry) -> Box:
    """A slot's box: what all layers of the period share, then what some of them have."""
    different = variants(period, slot)
    positions = _positions(period, registry) if slot == "mixer" else []
    titles = list(dict.fromkeys(label(variant.block, registry) for variant in different))
    if len(titles) > 1:
        lines = [f"{_share(v, period)}: {in_words(v.block, registry)}" for v in different]
        return Box(key, kind, " / ".join(titles), (*lines, *positions))
    said = [options(variant.block, registry) for variant in different]
    shared = [line for line in said[0] if all(line in other for other in said)]
    lines = [
        f"{_share(variant, period)}: {', '.join(own)}"
        for variant, mine in zip(different, said, strict=True)
        if (own := [line for line in mine if line not in shared])
    ]
    return Box(key, kind, titles[0], (*shared, *lines, *positions))


def _positions(period: Sequence[LayerConfig], registry: Registry) -> list[str]:
    """How positions enter the layers; nothing where they don't."""
    different = variants(period, "position")
    if len(different) == 1:
        words = in_words(different[0].block, registry)
        return [] if words == "none" else [words]
    return [f"{_share(variant, period)}: {in_words(variant.block, registry)}" for variant in different]


def _share(variant: Variant, period: Sequence[LayerConfig]) -> str:
    return "every layer" if len(variant.layers) == len(period) else f"{len(variant.layers)} in {len(period)}"


def label(block: BlockConfig | None, registry: Registry) -> str:
    """What a figure calls a block: its label, or the name that it is registered under."""
    return (block.label if block is not None else "") or title(block, registry)


def _count(n: int) -> str:
    rounded = float(f"{n:.3g}")  # first, or 999.9 million would be 1e+03M
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if rounded >= size:
            return f"{rounded / size:.3g}{unit}"
    return str(n)
