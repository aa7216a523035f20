"""What a solver may turn: width, depth, d_ff, experts, or a whole number of a model's YAML by its dotted key.

Depth and dotted keys are laid over the YAML, so that patterns of layers stay; the others change the loaded config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

from blockzoo.blocks import Scale
from blockzoo.config.expand import MAX_LAYERS
from blockzoo.config.extends import merged
from blockzoo.config.load import load_config
from blockzoo.config.node import Node
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import ConfigError, InputError, Problem, nearest
from blockzoo.experiments.config import KnobConfig
from blockzoo.experiments.scaling import rescaled, scaled_values
from blockzoo.registry import Registry

NAMES = ("width", "depth", "d_ff", "experts")
COUNT = "layers.count"


class Knob(Protocol):
    """One knob. It turns in whole multiples of a unit, from the unit up to ``most``."""

    @property
    def name(self) -> str: ...
    @property
    def most(self) -> int: ...
    def unit(self, draft: Draft) -> int: ...
    def now(self, draft: Draft) -> int:
        """Its value. Raises ConfigError for a model that has nothing to turn here."""
        ...

    def turned(self, draft: Draft, value: int) -> Draft: ...


@dataclass(frozen=True)
class Source:
    """The YAML of a model, and every config that was loaded from it."""

    ref: str | Path | Mapping[str, Any]
    overrides: Mapping[str, Any]
    registry: Registry
    _loaded: dict[str, ModelConfig] = field(default_factory=dict, repr=False)

    def load(self, extra: Mapping[str, Any]) -> ModelConfig:
        key = repr(extra)
        if key not in self._loaded:
            self._loaded[key] = load_config(self.ref, {**self.overrides, **extra}, registry=self.registry)
        return self._loaded[key]

    def tree(self) -> Node:
        return merged(self.ref, self.overrides, registry=self.registry)


@dataclass(frozen=True)
class Draft:
    """A model as far as it is turned: values laid over its YAML, then knobs of the loaded config, in order."""

    source: Source
    overrides: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[tuple[LoadedKnob, int], ...] = ()

    def config(self) -> ModelConfig:
        """Raises ConfigError for values that don't go together."""
        config = self.source.load(self.overrides)
        for knob, value in self.turns:
            config = knob.apply(config, value)
        return config


class LoadedKnob(Protocol):
    """A knob of the loaded config."""

    def apply(self, config: ModelConfig, value: int) -> ModelConfig: ...


@dataclass(frozen=True)
class Width:
    """d_model, and with it all that grows with width or d_ff, by one factor: heads stay as wide as they are.

    Fields that grow with width stay whole; those of d_ff are rounded to ``multiple``, as d_model is a multiple of it.
    """

    multiple: int = 1
    name: str = "width"
    most: int = 2**20

    def now(self, draft: Draft) -> int:
        return draft.config().d_model

    def unit(self, draft: Draft) -> int:
        config = draft.config()
        grain = config.d_model // math.gcd(config.d_model, *scaled_values(config, "width"))
        return math.lcm(grain, self.multiple)

    def turned(self, draft: Draft, value: int) -> Draft:
        return replace(draft, turns=(*draft.turns, (self, value)))

    def apply(self, config: ModelConfig, value: int) -> ModelConfig:
        factor = Fraction(value, config.d_model)

        def change(scale: Scale, old: int) -> int:
            if scale == "d_ff":
                return _rounded(old * factor, self.multiple)
            if scale == "width" and (old * factor).denominator > 1:
                raise ConfigError([Problem("", f"{old} doesn't stay whole where d_model becomes {value}")])
            return int(old * factor) if scale == "width" else old

        return rescaled(config, change, d_model=value)


@dataclass(frozen=True)
class Proportional:
    """All fields that scale so, in proportion; the knob's value is the greatest of them."""

    scale: Literal["d_ff", "experts"]
    multiple: int = 1

    @property
    def name(self) -> str:
        return self.scale

    @property
    def most(self) -> int:
        return 2**22 if self.scale == "d_ff" else 2**14

    def now(self, draft: Draft) -> int:
        values = scaled_values(draft.config(), self.scale)
        if not values:
            raise ConfigError([Problem("", f"no block of the model says that a field of it scales as {self.scale}")])
        return max(values)

    def unit(self, draft: Draft) -> int:
        return self.multiple

    def turned(self, draft: Draft, value: int) -> Draft:
        return replace(draft, turns=(*draft.turns, (self, value)))

    def apply(self, config: ModelConfig, value: int) -> ModelConfig:
        factor = Fraction(value, max(scaled_values(config, self.scale)))
        return rescaled(config, lambda way, old: _rounded(old * factor, self.multiple) if way == self.scale else old)


@dataclass(frozen=True)
class Key:
    """A whole number of the YAML by its dotted key, and keys that move along. Depth is one: ``layers.count``."""

    key: str
    multiple: int = 1
    along: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    most: int = 2**20

    def now(self, draft: Draft) -> int:
        tree = draft.source.tree()
        value = draft.overrides.get(self.key, dict(whole_numbers(tree)).get(self.key))
        if value is None:
            hint = nearest(self.key, {*NAMES, *(key for key, _ in whole_numbers(tree))})
            message = f"knob '{self.key}': the model's YAML has no whole number there{hint}"
            raise ConfigError([Problem("", message)])
        return int(value)

    def unit(self, draft: Draft) -> int:
        return self.multiple

    def turned(self, draft: Draft, value: int) -> Draft:
        moved = {key: max(1, round(factor * value)) for key, factor in self.along.items()}
        return replace(draft, overrides={**draft.overrides, self.key: value, **moved})


def make_knob(wanted: str | KnobConfig) -> Knob:
    """The knob that YAML or a command line names: ``d_ff``, ``width:64``, or a mapping. Raises InputError."""
    if isinstance(wanted, str):
        wanted = parse_knob(wanted)
    key, multiple = wanted.key, wanted.multiple
    if "." not in key and key not in (*NAMES, "d_model"):
        raise InputError(f"knob '{key}': no such knob{nearest(key, NAMES)}, or a dotted key such as layers.ffn.d_ff")
    if wanted.along and key in NAMES:
        raise InputError(f"knob '{key}': only a dotted key has keys along; {key} says itself what moves with it")
    if key == "width":
        return Width(multiple)
    if key == "d_ff":
        return Proportional("d_ff", multiple)
    if key == "experts":
        return Proportional("experts", multiple)
    if key == "depth":
        return Key(COUNT, multiple, name="depth", most=MAX_LAYERS)
    return Key(key, multiple, wanted.along, name=key)


def parse_knob(text: str) -> KnobConfig:
    """``d_ff`` or ``width:64``: a knob and the multiple that it turns in. Raises InputError."""
    key, colon, multiple = text.partition(":")
    if colon and not (multiple.isdecimal() and int(multiple) > 0):
        raise InputError(f"knob '{text}': write NAME or NAME:MULTIPLE, such as width:64")
    return KnobConfig(key=key or "?", multiple=int(multiple) if colon else 1)


def whole_numbers(node: Node, path: str = "") -> list[tuple[str, int]]:
    """Dotted key -> value of all whole numbers in a tree's mappings."""
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        return [(path, node.value)]
    found: list[tuple[str, int]] = []
    for key, inner in node.mapping.items():
        found += whole_numbers(inner, f"{path}.{key}" if path else key)
    return found


def _rounded(value: Fraction, multiple: int) -> int:
    """To the nearest multiple, at least one."""
    return max(multiple, round(value / multiple) * multiple)
