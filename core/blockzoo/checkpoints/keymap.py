"""Key maps: which tensor of a checkpoint is which parameter, said once and read in both directions.

A rule names a stored tensor and the canonical one (or several, fused) that it holds. It never moves data: it
gives, for each canonical tensor, the view of the stored one that holds it. Loading copies out of these views,
saving copies into them.

Templates: ``{layer}`` and ``{expert}`` count, ``{prefix}`` is one of the map's prefixes. A canonical name that ends in
``[{expert}]`` is one row of a stacked tensor.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blockzoo.blocks import BlockConfig
from blockzoo.checkpoints.folder import shortened
from blockzoo.errors import CheckpointError

ROW = "[{expert}]"


class Want(NamedTuple):
    """What a model has under a canonical name. ``dtype`` None: any float. ``block``: the mixer or ffn that it is of,
    every option written out.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    block: BlockConfig | None = None


Wants = Mapping[str, Want]
"""All tensors of one model, by canonical name."""


class Target(NamedTuple):
    """A canonical tensor, or one row of it."""

    name: str
    row: int | None = None

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.row is None else tensor[self.row]

    def shape(self, want: Want) -> tuple[int, ...]:
        return want.shape if self.row is None else want.shape[1:]


@dataclass(frozen=True)
class Rule:
    """One stored tensor <-> the canonical ones in it. Raises TypeError for a string in place of their tuple, and for
    two ways to lie.

    ``transposed``: its last two axes are swapped. Where it holds several, they lie along ``axis`` (negative,
    counted after the swap): one after the other, or interleaved (even rows the first, odd rows the second), or
    in ``groups``: an equal share of the first, one of the second and so on, then the next shares. Their number, or
    the option of the block that says it; groups are of rows, the first axis of the canonical tensors.
    """

    stored: str
    canonical: tuple[str, ...]
    transposed: bool = False
    axis: int = -1
    interleaved: bool = False
    groups: int | str = 1

    def __post_init__(self) -> None:
        if isinstance(self.canonical, str):  # it would be taken for a tuple of letters
            raise TypeError(f"the rule '{self.stored}': canonical is a tuple: write (\"{self.canonical}\",)")
        if isinstance(self.groups, bool) or not isinstance(self.groups, int | str):
            raise TypeError(f"the rule '{self.stored}': groups is {self.groups!r}: say a number or an option's name")
        if self.interleaved and self.groups != 1:
            raise TypeError(f"the rule '{self.stored}': interleaved is row by row; leave it out, or groups")

    @property
    def plain(self) -> bool:
        return len(self.canonical) == 1 and not self.transposed

    def stored_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape that holds canonical tensors of these shapes."""
        if self.plain:  # a number has no axis
            return shapes[0]
        shape = list(shapes[0])
        shape[self.axis] = sum(s[self.axis] for s in shapes)
        if self.transposed:
            shape[-1], shape[-2] = shape[-2], shape[-1]
        return tuple(shape)

    def views(self, stored: Tensor, shapes: Sequence[tuple[int, ...]], groups: int = 1) -> list[Tensor]:
        """The parts of a stored tensor, one for each canonical tensor, sharing its memory.

        ``groups``: how many there are. Of several, a part's rows are two axes: (groups, rows of each).
        """
        whole = stored.transpose(-1, -2) if self.transposed else stored
        if len(shapes) == 1:
            return [whole]
        if groups > 1:
            return list(whole.unflatten(0, (groups, -1)).split([shape[0] // groups for shape in shapes], dim=1))
        if self.interleaved:
            return [whole[_along(self.axis, slice(i, None, len(shapes)))] for i in range(len(shapes))]
        return list(whole.split([shape[self.axis] for shape in shapes], dim=self.axis))


def _along(axis: int, part: slice) -> Any:
    """An index that takes ``part`` of a negative axis and all of the others."""
    return (..., part, *(slice(None) for _ in range(-axis - 1)))


def same(stored: str, canonical: str) -> Rule:
    """A tensor that only has another name."""
    return Rule(stored, (canonical,))


@dataclass(frozen=True)
class Entry:
    """A rule applied: one stored tensor of one model."""

    stored: str
    rule: Rule
    targets: tuple[Target, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype | None
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rule.stored_shape(self.shapes)

    def views(self, stored: Tensor) -> list[Tensor]:
        return self.rule.views(stored, self.shapes, self.groups)

    def parts(self, stored: Tensor) -> list[Tensor]:
        """The views in the shapes of the canonical tensors: those in groups are copied."""
        return [view.reshape(shape) for view, shape in zip(self.views(stored), self.shapes, strict=True)]


@dataclass(frozen=True)
class KeyMap:
    """The rules of a layout. ``prefixes``: what may stand before its keys, the one that is written first.

    ``weightless``: templates of stored buffers that carry no weight, matched exactly. ``copies``: stored
    template of a second copy of a tied weight -> template of the first; a copy must equal it and is not written.
    """

    rules: tuple[Rule, ...]
    prefixes: tuple[str, ...] = ("",)
    weightless: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)

    def prefix_of(self, stored: Sequence[str] | Mapping[str, object]) -> str:
        """The prefix that most of these keys have; the one that is written where none has any."""
        return max(
            self.prefixes, key=lambda prefix: sum(name.startswith(prefix) for name in stored if prefix) or -len(prefix)
        )

    def entries(
        self, wanted: Mapping[str, Want], prefix: str | None = None, samples: Callable[[], Sequence[Wants]] = tuple
    ) -> list[Entry]:
        """Every stored tensor of a model that has these canonical tensors.

        Raises CheckpointError if a tensor has no place in this layout or two, if two have one place, or if only some of
        those that share one exist. ``samples``: other models of the family, asked for once a tensor has no place: a
        rule that has its place in one of them is not misspelt.
        """
        prefix = self.prefixes[0] if prefix is None else prefix
        layers = _layers(wanted)
        entries = [
            e for rule in self.rules for layer in _range(rule, layers) for e in _apply(rule, wanted, layer, prefix)
        ]
        _check_apart(entries)
        homeless = sorted(set(wanted) - {target.name for entry in entries for target in entry.targets})
        if homeless:
            said = ["this layout has no place for these tensors:", *shortened(homeless)]
            raise CheckpointError("\n".join([*said, *self._misspelt([wanted, *samples()], homeless[0])]))
        return entries

    def _misspelt(self, models: Sequence[Wants], homeless: str) -> list[str]:
        """The rule whose canonical name every model lacks and that is nearest to one that no rule names, in words."""
        head, _, leaf = homeless.rpartition(".")
        layer = head.split(".")[1] if head.startswith("layers.") else "0"
        named = {
            target.removesuffix(ROW).format(layer=layer): rule.stored
            for rule in self.rules
            for target in rule.canonical
            if not any(
                target.removesuffix(ROW).format(layer=number) in model
                for model in models
                for number in _range(rule, _layers(model))
            )
        }
        idle = [name for name in named if name.rpartition(".")[2] == leaf]
        close = difflib.get_close_matches(homeless, idle, n=1)
        return [f"the rule '{named[near]}' names '{near}', which the model has not: misspelt?" for near in close]

    def is_weightless(self, name: str, prefix: str) -> bool:
        return any(_matches(template, name, prefix) for template in self.weightless)


def _check_apart(entries: Sequence[Entry]) -> None:
    """One rule for each canonical tensor, and one for each stored one. Raises CheckpointError."""
    filled: dict[Target, Rule] = {}
    stored: dict[str, Rule] = {}
    for entry in entries:
        rule = entry.rule
        for target in entry.targets:
            if target in filled:
                both = f"rules '{filled[target].stored}' and '{rule.stored}' both fill '{target.name}'"
                raise CheckpointError(f"{both}: give each its own canonical name")
            filled[target] = rule
        if entry.stored in stored:
            both = f"rules for '{', '.join(stored[entry.stored].canonical)}' and '{', '.join(rule.canonical)}'"
            raise CheckpointError(f"{both} both read '{entry.stored}': one rule names all that a stored tensor holds")
        stored[entry.stored] = rule


def identity(wanted: Mapping[str, Want]) -> list[Entry]:
    """The entries of the native layout: every tensor under its canonical name."""
    return [Entry(name, same(name, name), (Target(name),), (want.shape,), want.dtype) for name, want in wanted.items()]


def _layers(wanted: Wants) -> int:
    return 1 + max((int(name.split(".")[1]) for name in wanted if name.startswith("layers.")), default=-1)


def _range(rule: Rule, layers: int) -> range:
    return range(layers if "{layer}" in rule.stored else 1)


def _apply(rule: Rule, wanted: Mapping[str, Want], layer: int, prefix: str) -> Iterator[Entry]:
    names = [template.removesuffix(ROW).format(layer=layer) for template in rule.canonical]
    there = [name for name in names if name in wanted]
    if not there:
        return
    if len(there) < len(names):
        absent = ", ".join(sorted(set(names) - set(there)))
        raise CheckpointError(f"this layout stores {', '.join(names)} in one tensor, but the model has no {absent}")
    wants = [wanted[name] for name in names]
    rows = range(wants[0].shape[0]) if rule.canonical[0].endswith(ROW) else [None]
    for row in rows:
        targets = tuple(Target(name, row) for name in names)
        shapes = tuple(target.shape(want) for target, want in zip(targets, wants, strict=True))
        stored = rule.stored.format(layer=layer, expert=row, prefix=prefix)
        groups = _groups(rule, dict(zip(names, shapes, strict=True)), wants[0].block)
        yield Entry(stored, rule, targets, shapes, wants[0].dtype, groups)


def _groups(rule: Rule, shapes: Mapping[str, tuple[int, ...]], block: BlockConfig | None) -> int:
    """In how many groups tensors of these shapes lie. Raises CheckpointError where they can't."""
    if rule.groups == 1 or len(shapes) == 1:
        return 1
    options = {name: value for name, value in (block or ()) if type(value) is int}
    count = options.get(rule.groups, 0) if isinstance(rule.groups, str) else rule.groups
    where = f"the rule '{rule.stored}': groups={rule.groups!r}"
    if count < 1:
        known = f"{type(block).__name__} has {', '.join(options)}" if options else f"'{next(iter(shapes))}' has none"
        raise CheckpointError(f"{where}: must be 1 or more, or the name of a number among the block's options: {known}")
    for name, shape in shapes.items():
        if len(shape) != -rule.axis:
            raise CheckpointError(f"{where}: groups are of rows, and '{name}' is {shape}: say axis={-len(shape)}")
        if shape[0] % count:
            raise CheckpointError(f"{where}: '{name}' is {shape}, whose {shape[0]} rows are no multiple of {count}")
    return count


def _matches(template: str, name: str, prefix: str) -> bool:
    """Whether a name is a template with some layer number put in."""
    before, counter, after = template.replace("{prefix}", prefix).partition("{layer}")
    if not counter:
        return name == before
    number = name[len(before) : len(name) - len(after)]
    return name == f"{before}{number}{after}" and number.isdecimal()
