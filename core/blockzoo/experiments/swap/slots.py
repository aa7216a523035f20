"""Which slots of a small architecture a block or kernel fits, and what puts it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from blockzoo.blocks import BlockConfig, Dims, FFNConfig, PositionConfig, QuantizerConfig
from blockzoo.config import dump_block
from blockzoo.experiments.swap.architectures import (
    ARCHITECTURES,
    CONTEXT,
    D_MODEL,
    N_LAYERS,
    Architecture,
    ops_of,
    stock,
)
from blockzoo.kernels import Call, Capabilities, Kernel, ask
from blockzoo.linear import EXPERT_LINEAR, LINEAR
from blockzoo.registry import Component, Registry
from blockzoo.step import PHASES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """One combination. ``component`` is empty for the stock model; ``sample``: which of a block's several it is."""

    architecture: Architecture
    component: str = ""
    slot: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    trains: bool = True
    sample: str = ""


def trials(plugin: str, registry: Registry) -> list[Trial]:
    """Every combination of a plugin, each architecture's stock model first."""
    found: list[Trial] = []
    for architecture in ARCHITECTURES:
        own = [t for c in registry.components(plugin) for t in _trials_of(c, architecture, registry)]
        found += [Trial(architecture), *own] if own else []
    return found


def _trials_of(component: Component, architecture: Architecture, registry: Registry) -> Iterator[Trial]:
    thing = registry.get(component.kind, component.canonical)
    name = f"{component.kind}/{component.name}"
    if component.kind == "kernel":
        op, kernel = thing
        if op in ops_of(architecture, registry):
            trains = kernel.backward and op not in (LINEAR.name, EXPERT_LINEAR.name)  # stored weights don't train
            for quantizer in _weights_of(op, kernel, registry):
                packed = {} if quantizer is None else {"quantizer": dump_block(quantizer, registry)}
                over = "" if quantizer is None else f" over {registry.name_of(type(quantizer), 'quantizer')}"
                yield Trial(architecture, name, f"op {op}{over}", packed, {op: kernel.name}, trains)
    elif isinstance(thing, type) and issubclass(thing, BlockConfig):
        sample = _sample(thing, _shapes_of(architecture, registry) if issubclass(thing, QuantizerConfig) else ())
        which = _shown(sample, registry)
        for slot, overrides in _placements(sample, architecture, registry):
            yield Trial(architecture, name, slot, overrides, sample=which)


def _shapes_of(architecture: Architecture, registry: Registry) -> Sequence[Shape]:
    """Of the stock model's matrices, which a quantizer is to pack."""
    shapes = (tuple(parameter.shape) for parameter in stock(architecture, registry).parameters())
    return list(dict.fromkeys(shape for shape in shapes if len(shape) > 1))


def _weights_of(op: str, kernel: Kernel, registry: Registry) -> Sequence[QuantizerConfig | None]:
    """How the weights are stored where a kernel is tried: plain (None), and by the first quantizer that it reads.

    One of the two only where it refuses the other; plain where it refuses all, for the reasons.
    """
    shapes = {LINEAR.name: (D_MODEL, D_MODEL), EXPERT_LINEAR.name: (4, D_MODEL, D_MODEL)}
    if op not in shapes:
        return [None]
    capabilities = Capabilities.of(torch.device("cpu"))

    def reads(quantizer: BlockConfig | None) -> bool:
        static = {"quantizer": quantizer, "shape": shapes[op]}
        return any(ask(kernel, capabilities, Call(op, phase, torch.float32, static)).ok for phase in PHASES)

    shape = shapes[op]
    samples = [_sample(registry.block("quantizer", name), [shape]) for name in registry.names("quantizer")]
    packed = [sample for sample in samples if isinstance(sample, QuantizerConfig) and reads(sample)][:1]
    return [*([None] if reads(None) or not packed else []), *packed]


def _placements(
    sample: BlockConfig, architecture: Architecture, registry: Registry
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The slots that a block fits, and what puts it there."""
    block = dump_block(sample, registry)
    match sample.kind:
        case "norm":
            yield "norm", {"norm": block}
            yield "qk_norm", {f"blocks.{architecture.attention}.qk_norm": block}
        case "mixer":
            yield "mixer", {"layers.mixer": block}
            yield "mixer, every other layer", {"layers.mixer": {"cycle": [block, architecture.attention]}}
        case "ffn":
            yield "ffn", {"layers.ffn": block}
            yield "ffn, every other layer", {"layers.ffn": {"cycle": [block, architecture.ffn]}}
            if isinstance(sample, FFNConfig) and sample.stackable and architecture.ffn == "experts":
                yield "expert", {"blocks.experts.expert": block}
        case "position":
            assert isinstance(sample, PositionConfig)
            additive = sample.form == "additive"
            yield (
                "embedding.position" if additive else "position",
                {"embedding.position": block if additive else None, "position": "none" if additive else block},
            )
        case "residual":
            yield "residual", {"residual": block}
        case "quantizer":
            yield "quantizer", {"quantizer": block}
            yield "embedding.quantizer", {"embedding.quantizer": block}


def _sample(cls: type[BlockConfig], shapes: Sequence[Shape]) -> BlockConfig:
    """The first sample without complaints about the small models' dims, and as a quantizer about these shapes."""
    samples = cls.samples()
    return next((sample for sample in samples if _fits(sample, shapes)), samples[0])


def _fits(sample: BlockConfig, shapes: Sequence[Shape]) -> bool:
    refused = isinstance(sample, QuantizerConfig) and any(map(sample.refuses, shapes))
    return not refused and not list(sample.check(Dims(D_MODEL, N_LAYERS, CONTEXT)))


def _shown(sample: BlockConfig, registry: Registry) -> str:
    """Which of several a sample is, by its number and the options that it sets; nothing where it is the only one."""
    samples = type(sample).samples()
    if len(samples) == 1:
        return ""
    block = dump_block(sample, registry)
    options = ", ".join(f"{name}: {block[name]}" for name in sorted(sample.model_fields_set & block.keys()))
    return f"sample {samples.index(sample) + 1} of {len(samples)}, {{{options or 'defaults'}}}"
