"""The coordinate check: do a few steps of training move activations equally at every width and depth?

Yang et al. 2022 (arXiv:2203.03466, appendix D.1) for width; over depth too: Dey et al. 2025, arXiv:2505.01618. A
learning rate transfers only if its step does the same to a wide model as to a narrow one. So small models that differ
in one factor are trained for a few steps on the same text, and each activation's change since initialization is fitted
by a power of the factor: an exponent of 0 is flat. It needs no roles to be right, which is what it is for: a
parameter with a wrong one shows.

Axes: B batch, T tokens, D d_model, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log, sqrt
from statistics import linear_regression
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.building import build
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import ConfigError, InputError
from blockzoo.experiments.knobs import COUNT, Draft, Key, Source, Width
from blockzoo.experiments.text import text
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.training.config import CompletePConfig, OptimizerConfig
from blockzoo.training.optimizer import make_optimizer
from blockzoo.training.parametrization import parametrized

QUANTITIES = ("stream", "mixer", "ffn", "logits")
"""The residual stream after the last layer, what mixers and ffns put out (before a residual's factor), and logits."""
THRESHOLD = 0.3
"""An exponent within this of 0 is flat: over 4 times the width or depth, a change by less than a factor of 1.52.
Measured on GPT-2, Qwen3 and a mixture of experts, made small: 0.26 at most under CompleteP, 0.5 to 3 for what moves
without.
"""
BATCH, LENGTH, VOCABULARY = 8, 64, 256
LEAST_WIDTH = 64


@dataclass(frozen=True)
class Settings:
    """``base_width`` and ``base_depth`` None: as small as the model's own fields allow."""

    widths: tuple[int, ...] = (1, 2, 4)
    depths: tuple[int, ...] = (1, 2, 4)
    completep: bool = False
    steps: int = 8
    lr: float = 2**-8
    seeds: tuple[int, ...] = (0, 1)
    base_width: int | None = None
    base_depth: int | None = None

    def __post_init__(self) -> None:
        for name, factors in (("widths", self.widths), ("depths", self.depths)):
            if any(factor < 1 for factor in factors) or len(set(factors)) < len(factors):
                raise InputError(f"{name} are {list(factors)}: give factors of the base's, from 1 on, each once")
        if len(self.widths) < 2 and len(self.depths) < 2:
            raise InputError("one width and one depth: give two factors or more of either")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}: must be at least 1")


@dataclass(frozen=True)
class Point:
    """One shape. ``changes``: quantity -> RMS of its change since initialization, after each step; mean over seeds."""

    axis: str
    factor: int
    d_model: int
    n_layers: int
    changes: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Report:
    """``exponents``: axis -> quantity -> the power of the factor that its change after the last step goes with."""

    settings: Settings
    base: tuple[int, int]
    points: Sequence[Point]
    exponents: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def moving(self) -> list[tuple[str, str, float]]:
        """(axis, quantity, exponent) of what isn't flat."""
        return [
            (axis, quantity, power)
            for axis, powers in self.exponents.items()
            for quantity, power in powers.items()
            if not abs(power) <= THRESHOLD
        ]

    @property
    def flat(self) -> bool:
        return not self.moving


def check_coordinates(
    ref: Any,
    overrides: Mapping[str, Any],
    settings: Settings,
    *,
    registry: Registry,
    watch: Callable[[Point], None] = lambda point: None,
) -> Report:
    """Train at every width and depth. ``watch`` sees each shape when it is measured.

    Raises ConfigError for a model that can't be made in these shapes, InputError for a residual that doesn't scale.
    """
    small = {"vocab_size": VOCABULARY, "family": None, "tokenizer": "bytes"}
    draft, width, depth = _base(Draft(Source(ref, {**overrides, **small}, registry)), settings)
    base = CompletePConfig(type="completep", d_model=width, n_layers=depth) if settings.completep else None
    axes = (("width", settings.widths, Width(), width), ("depth", settings.depths, Key(COUNT), depth))
    shapes = [  # all of them before any is trained
        (axis, factor, parametrized(knob.turned(draft, least * factor).config(), base))
        for axis, factors, knob, least in axes
        if len(factors) > 1
        for factor in factors
    ]
    points: list[Point] = []
    for axis, factor, config in shapes:
        same = [point.changes for point in points if factor == point.factor == 1]
        changes = same[0] if same else measure(config, base, settings, registry)
        points.append(Point(axis, factor, config.d_model, config.n_layers, changes))
        watch(points[-1])
    return Report(settings, (width, depth), points, dict(_exponents(points)))


def measure(
    config: ModelConfig, base: CompletePConfig | None, settings: Settings, registry: Registry
) -> dict[str, list[float]]:
    """One shape, parametrized already: each quantity's change after each step, mean over the seeds."""
    found = [_changes(config, base, settings, seed, registry) for seed in settings.seeds]
    return {name: [sum(values) / len(found) for values in zip(*(f[name] for f in found))] for name in found[0]}  # noqa: B905


def exponent(factors: Sequence[float], changes: Sequence[float]) -> float:
    """p of the least-squares fit changes ~ factors ** p; infinite where something diverged."""
    if not all(isfinite(change) and change > 0 for change in changes):
        return inf
    return linear_regression([log(factor) for factor in factors], [log(change) for change in changes]).slope


# --- one shape ---


def _changes(
    config: ModelConfig, base: CompletePConfig | None, settings: Settings, seed: int, registry: Registry
) -> dict[str, list[float]]:
    """Train one model. Dropout is off: it would be measured as change."""
    model = build(config, registry=registry, seed=seed, trainable=True).eval()
    recipe = OptimizerConfig(lr=settings.lr, weight_decay=0.0)
    optimizer = make_optimizer(model, model.config, recipe, base)
    batches = _batches(settings.steps + 1, seed)
    probe = batches[0]
    before = activations(model, probe[:, :-1])
    found: dict[str, list[float]] = {name: [] for name in before}
    for batch in batches[1:]:
        logits, aux = model(batch[:, :-1], return_aux=True)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        (loss + aux["balance_loss"] if "balance_loss" in aux else loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after = activations(model, probe[:, :-1])
        for name, tensors in after.items():
            squares = [(new - old).square().mean().item() for new, old in zip(tensors, before[name], strict=True)]
            found[name].append(sqrt(sum(squares) / len(squares)))
    return found


@torch.no_grad()
def activations(model: Decoder, tokens: Tensor) -> dict[str, list[Tensor]]:
    """Every tensor of each quantity: stream (B, T, D), mixer and ffn (B, T, D) of each layer that has one, logits
    (B, T, V)."""
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Tensor | tuple[Tensor, Any]) -> None:
            kept.setdefault(name, []).append(output if isinstance(output, Tensor) else output[0])

        return hook

    hooks = []
    for layer in model.layers:
        parts = dict(layer.named_children())
        hooks += [parts[name].register_forward_hook(keep(name)) for name in ("mixer", "ffn") if name in parts]
    hooks.append(model.layers[-1].register_forward_hook(keep("stream")))
    try:
        kept["logits"] = [model(tokens)]
    finally:
        for handle in hooks:
            handle.remove()
    return {name: kept[name] for name in QUANTITIES if name in kept}


def _batches(count: int, seed: int) -> Tensor:
    """(count, B, T + 1) bytes: the same for every shape."""
    data = text()
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(data) - LENGTH, (count, BATCH, 1), generator=generator)
    return data[starts + torch.arange(LENGTH + 1)]


# --- all shapes ---


def _base(draft: Draft, settings: Settings) -> tuple[Draft, int, int]:
    """The smallest of the shapes: its draft, d_model and layers."""
    depth = settings.base_depth or _least_depth(draft, max(settings.depths))
    draft = Key(COUNT).turned(draft, depth)
    config, knob = draft.config(), Width()
    unit = knob.unit(draft)
    width = settings.base_width or min(config.d_model, -(-LEAST_WIDTH // unit) * unit)
    if width % unit:
        raise InputError(f"a width of {width}: {config.name}'s heads and all that grows with it come whole in {unit}s")
    return (draft if width == config.d_model else knob.turned(draft, width)), width, depth


def _least_depth(draft: Draft, most: int) -> int:
    """The fewest layers, two at least, that the model's pattern of layers allows, and that ``most`` times as many are
    allowed, too; its own number where there is no such."""
    knob, own = Key(COUNT), draft.config().n_layers
    for depth in range(2, own):
        try:
            for factor in (1, most):
                knob.turned(draft, depth * factor).config()
        except ConfigError:
            continue
        return depth
    return own


def _exponents(points: Sequence[Point]) -> Iterator[tuple[str, dict[str, float]]]:
    for axis in ("width", "depth"):
        mine = [point for point in points if point.axis == axis]
        if mine:
            factors = [point.factor for point in mine]
            yield axis, {name: exponent(factors, [p.changes[name][-1] for p in mine]) for name in mine[0].changes}
