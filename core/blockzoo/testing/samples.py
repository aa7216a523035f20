"""The samples of a block, by its kind: each a `BlockSubject`, and with what there is around it.

Axes: B batch, T tokens, D d_model, H heads, Dh head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from blockzoo.blocks import (
    AdditivePositionConfig,
    AttentionPositionConfig,
    Aux,
    BlockConfig,
    Cost,
    FFNConfig,
    MixerConfig,
    NormConfig,
    PositionForm,
    QuantizerConfig,
    ResidualConfig,
)
from blockzoo.registry import Component, Registry
from blockzoo.step import Step
from blockzoo.testing.check import CheckFailed, need
from blockzoo.testing.inputs import DIMS, HEAD_DIM, HEADS
from blockzoo.testing.subjects import BlockSubject
from blockzoo.testing.toys import ToyBiasConfig, ToyFFN, ToyFFNConfig, ToyMixer, ToyNorm, ToyNormConfig


def subjects_of(component: Component, config: type[BlockConfig], registry: Registry) -> Sequence[BlockSubject]:
    """The samples of a block that fit DIMS, with every form of position where it is a mixer."""
    try:
        samples = list(config.samples())
    except ValidationError as error:
        wanted = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise CheckFailed(
            f"{component.name}: samples() fails on {wanted}: override it to return small instances of {config.__name__}"
        ) from error
    need(samples, "samples() gives none: return at least one instance")
    labelled = _labelled(component.name, samples)
    return [subject for label, sample in labelled for subject in _subjects(label, sample, registry)]


def peers_of(subject: BlockSubject) -> Iterator[BlockSubject]:
    """The other samples of its block, with the same around them; those that don't go there are left out."""
    others = [config for config in type(subject.config).samples() if config != subject.config]
    return (peer for peer in kin_of(subject, others) if peer.around == subject.around)


def kin_of(subject: BlockSubject, configs: Sequence[BlockConfig] | None = None) -> Iterator[BlockSubject]:
    """Samples of its block, default: all, with everything around them that they take."""
    for config in type(subject.config).samples() if configs is None else configs:
        yield from _subjects("", config, subject.registry)


def repositioned(subject: BlockSubject) -> Iterator[BlockSubject]:
    """A mixer's sample with each other sample of its position: one of the same form, with another theta or slope."""
    config, position = subject.config, subject.position
    assert isinstance(config, MixerConfig)
    assert position is not None
    for other in type(position).samples():
        if other != position and _takes(config, other):
            yield _mixer(subject.sample, config, other, subject.registry)


def _labelled(name: str, samples: Sequence[BlockConfig]) -> Iterator[tuple[str, BlockConfig]]:
    """Samples with what messages call them: numbered where there are several."""
    for number, sample in enumerate(samples, start=1):
        which = f"sample {number} of {len(samples)}: " if len(samples) > 1 else ""
        yield f"{which}{describe(name, sample)}", sample


def _subjects(label: str, config: BlockConfig, registry: Registry) -> Iterator[BlockSubject]:
    problems = [f"{field}: {message}" for field, message in config.check(DIMS)]
    need(not problems, f"{label}: samples() gives one that check() refuses for {DIMS}: {'; '.join(problems)}")
    if isinstance(config, NormConfig):
        dim = DIMS.d_model
        need(
            not config.refuses(dim), f"{label}: samples() gives one that refuses the width {dim}: {config.refuses(dim)}"
        )
        yield _subject(label, config, registry, lambda: config.build(dim), lambda c: config.cost(dim), _plain)
    elif isinstance(config, FFNConfig):
        yield _subject(label, config, registry, lambda: config.build(DIMS), lambda c: config.cost(DIMS), _first)
    elif isinstance(config, MixerConfig):
        yield from _mixers(label, config, registry)
    elif isinstance(config, AdditivePositionConfig):
        yield _subject(label, config, registry, lambda: config.build(DIMS), lambda c: config.cost(DIMS), _added)
    elif isinstance(config, AttentionPositionConfig):

        def make() -> nn.Module:
            return config.build(HEAD_DIM, HEADS)

        yield _subject(label, config, registry, make, lambda c: config.cost(HEAD_DIM, HEADS), _attended)
    elif isinstance(config, ResidualConfig):
        yield from _residuals(label, config, registry)
    else:
        assert isinstance(config, QuantizerConfig)
        yield _subject(label, config, registry, nn.Identity, lambda c: Cost(), _plain)


def _subject(
    label: str,
    config: BlockConfig,
    registry: Registry,
    make: Callable[[], nn.Module],
    cost: Callable[[int], Cost],
    call: Callable[[nn.Module, Tensor, Step], Tensor],
    position: AttentionPositionConfig | None = None,
    around: str = "",
) -> BlockSubject:
    return BlockSubject(f"{label}{around}", label, config, registry, make, cost, call, position)


def _mixers(label: str, config: MixerConfig, registry: Registry) -> Iterator[BlockSubject]:
    need("none" in config.positions, "positions lacks 'none': a layer may have no position")
    taken = [position for form, position in positions_by_form(registry).items() if form in config.positions]
    for position in taken:
        if _takes(config, position):
            yield _mixer(label, config, position, registry)


def _takes(config: MixerConfig, position: AttentionPositionConfig) -> bool:
    return next(iter(config.check_position(DIMS, position)), None) is None


def _mixer(label: str, config: MixerConfig, position: AttentionPositionConfig, registry: Registry) -> BlockSubject:
    return _subject(
        label,
        config,
        registry,
        lambda: config.build(DIMS, position),
        lambda context: config.cost(DIMS, position, context),
        lambda module, x, step: module(x, step),
        position,
        f" with {type(position).__name__.removesuffix('Config')}",
    )


def positions_by_form(registry: Registry) -> dict[PositionForm, AttentionPositionConfig]:
    """A position of each form that attention may have: the first of its samples, built-in ones first; a toy's bias."""
    found: dict[PositionForm, AttentionPositionConfig] = {}
    for name in sorted(registry.names("position"), key=lambda name: ":" in name):
        config = registry.block("position", name)
        if issubclass(config, AttentionPositionConfig) and config.form not in found:
            found[config.form] = config.samples()[0]
    need("none" in found, "the registry has no position of form 'none': load the plugin 'blocks' beside this one")
    return {**found, "biasing": ToyBiasConfig()}


def _residuals(label: str, config: ResidualConfig, registry: Registry) -> Iterator[BlockSubject]:
    for mixer, ffn in ((True, True), (True, False), (False, True)):
        parts = " and ".join(["mixer"] * mixer + ["ffn"] * ffn)

        def make(mixer: bool = mixer, ffn: bool = ffn) -> nn.Module:
            d = DIMS.d_model
            return config.build(DIMS, ToyMixer(d) if mixer else None, ToyFFN(d) if ffn else None, lambda: ToyNorm(d))

        def cost(context: int, mixer: bool = mixer, ffn: bool = ffn) -> Cost:
            total = config.cost(DIMS, mixer, ffn)
            for name in config.norms(mixer, ffn):
                total += ToyNormConfig().cost(DIMS.d_model).under(name)
            total += ToyMixer.cost(DIMS.d_model).under("mixer") if mixer else Cost()
            return total + (ToyFFNConfig().cost(DIMS).under("ffn") if ffn else Cost())

        around = f" around {parts}"
        yield _subject(label, config, registry, make, cost, lambda m, x, step: m(x, step)[0], around=around)


def _plain(module: nn.Module, x: Tensor, step: Step) -> Tensor:
    return module(x)


def _first(module: nn.Module, x: Tensor, step: Step) -> Tensor:
    return with_reports(module, x)[0]


def with_reports(module: nn.Module, x: Tensor, *which: object) -> tuple[Tensor, Aux]:
    """What an ffn returns, once it is the pair that it should be: a bare tensor of two rows unpacks as one too."""
    out = module(x, *which)
    pair = isinstance(out, tuple) and [isinstance(part, kind) for part, kind in zip(out, (Tensor, dict), strict=False)]
    need(pair == [True, True] and len(out) == 2, f"returns {_kinds(out)}, not (y, aux): return (y, {{}})")
    return out


def _kinds(out: object) -> str:
    return f"({', '.join(type(part).__name__ for part in out)})" if isinstance(out, tuple) else type(out).__name__


def _added(module: nn.Module, x: Tensor, step: Step) -> Tensor:
    return x + module(step.positions).to(x.dtype)


def _attended(module: Any, x: Tensor, step: Step) -> Tensor:
    """Queries and keys after rotation, and scores with their bias, side by side: (B, T, H * (Dh + T))."""
    q = x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
    turned, k = module.rotate(q, q[:, :2].flip(-1), step)
    scores = turned @ k.repeat_interleave(HEADS // 2, dim=1).transpose(-1, -2)
    bias = module.bias(step.positions, step.positions)
    scores = scores if bias is None else scores + bias.to(scores.dtype)
    return torch.cat([turned, scores], dim=-1).transpose(1, 2).flatten(2)


def describe(name: str, config: BlockConfig) -> str:
    """``gqa(n_heads=4, window=5)``: what was set."""
    said = [f"{field}={_short(getattr(config, field))}" for field in sorted(config.model_fields_set)]
    return f"{name}({', '.join(said)})"


def _short(value: object) -> str:
    return type(value).__name__.removesuffix("Config") if isinstance(value, BaseModel) else repr(value)
