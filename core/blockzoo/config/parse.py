"""A tree of YAML -> a validated block or section; everything wrong told with its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from blockzoo.blocks import (
    AdditivePositionConfig,
    AttentionPositionConfig,
    BlockConfig,
    Dims,
    PositionConfig,
    QuantizableConfig,
    nested_kinds,
)
from blockzoo.config.explain import annotated_models, explain
from blockzoo.config.node import Node, Problems, shown
from blockzoo.config.resolve import Resolver
from blockzoo.errors import PluginError, nearest
from blockzoo.registry import Registry

ABSENT_KINDS = ("mixer", "ffn", "quantizer", "norm")
"""Slots that ``none`` leaves empty unless somebody registers a block of that name."""


@dataclass(frozen=True, eq=False)
class Parsed:
    """A validated block, or none where the slot says none. ``origins``: dotted field -> where its value was written."""

    config: Any
    origins: dict[str, str] = field(default_factory=dict)
    node: Node | None = None


class Parser:
    """Validates blocks and sections of one config. Equal blocks come out as one object."""

    def __init__(self, registry: Registry, resolver: Resolver, problems: Problems, dims: Dims | None = None) -> None:
        self.registry = registry
        self.resolver = resolver
        self.problems = problems
        self.dims = dims
        self._parsed: dict[tuple[int, type, int, bool], tuple[Node, Parsed | None]] = {}
        self._shared: dict[str, list[BaseModel]] = {}

    # --- blocks --------------------------------------------------------------------------------------------------

    def block(
        self, node: Node, base: type[BlockConfig], *, quantizer: Parsed | None = None, partial: bool = False
    ) -> Parsed | None:
        """The block of kind ``base`` that a slot names. None where there are problems.

        ``quantizer`` is what a block that names none of its own gets. ``partial``: keys may be missing (a block that is
        only there for others to use).
        """
        key = (id(node), base, id(quantizer), partial)
        if key not in self._parsed:
            before = len(self.problems)
            resolved = self.resolver(node)
            parsed = None if resolved is None else self._block(resolved, base, quantizer, partial)
            self._parsed[key] = (node, parsed if len(self.problems) == before else None)
        return self._parsed[key][1]

    def _block(self, node: Node, base: type[BlockConfig], quantizer: Parsed | None, partial: bool) -> Parsed | None:
        kind, name_node = base.kind, node.mapping["type"]
        name = name_node.value
        assert isinstance(name, str)
        if name == "none" and self._means_absent(base):
            for key in (k for k in node.mapping if k != "type"):
                self.problems.at_key(node, key, f"'{key}' of a {kind} that is none")
            return Parsed(None, {"": name_node.place.short}, node)
        try:
            cls = self.registry.block(kind, name)
        except PluginError as error:
            near = nearest(name, {*self._blocks_of(kind), *self.registry.names(kind)} - {name})
            bare = f"no {kind} '{name}'{near}{self.registry.not_loaded()}"
            self.problems.at(name_node, str(error) if ":" in name else bare)
            return None
        canonical = self.registry.canonical(kind, name)
        if not issubclass(cls, base):
            self.problems.at(name_node, _wrong_place(cls, name, base))
            return None
        given = node.without("type")
        inject = quantizer is not None and "quantizer" not in given.mapping and "quantizer" in cls.model_fields
        parsed = self._model(cls, given, canonical, {"quantizer": quantizer} if inject else {}, partial)
        if parsed is None or partial:
            return None
        self._check(parsed.config, given, canonical)
        return Parsed(self.share(parsed.config), {"type": name_node.place.short, **parsed.origins}, node)

    def _blocks_of(self, kind: str) -> set[str]:
        """The names under ``blocks`` that are of this kind."""
        found = set()
        for name, node in self.resolver.blocks.items():
            word = node.mapping.get("type") if node.is_mapping else None
            if word is not None and word.value in self.registry.names(kind):
                found.add(name)
        return found

    def _means_absent(self, base: type[BlockConfig]) -> bool:
        if base.kind not in ABSENT_KINDS and not issubclass(base, AdditivePositionConfig):
            return False
        return not any(
            k == base.kind and n == "none" and issubclass(c, base) for (k, n, _), c in self.registry.things.items()
        )

    def _check(self, config: BlockConfig, node: Node, canonical: str) -> None:
        if self.dims is None:
            return
        try:
            found = list(config.check(self.dims))
        except Exception as error:
            self.problems.at(node, f"the check of {canonical} failed: {type(error).__name__}: {error}")
            return
        for dotted, message in found:
            target = node.at(dotted)
            path = target.path if target is not node or not dotted else node.child_path(dotted)
            self.problems.add(target.place, path, message)

    def share(self, config: Any) -> Any:
        """The one object that stands for all equal ones."""
        same = self._shared.setdefault(repr(config), [])
        for other in same:
            if type(other) is type(config) and other == config:
                return other
        same.append(config)
        return config

    # --- any pydantic model that may refer to blocks -------------------------------------------------------------

    def section(self, cls: type[BaseModel], node: Node, name: str) -> Parsed | None:
        """A part of a config that is no block. ``name``: what its defaults are said to be defaults of."""
        if not node.is_mapping:
            self.problems.at(node, f"found {shown(node)}; expected a mapping")
            return None
        return self._model(cls, node, name, {}, partial=False)

    def _model(
        self, cls: type[BaseModel], node: Node, name: str, given: dict[str, Parsed | None], partial: bool
    ) -> Parsed | None:
        before = len(self.problems)
        parts: dict[str, Parsed | None] = dict(given)
        kinds = nested_kinds(cls)  # type: ignore[arg-type]  # sections refer to blocks the same way
        values: dict[str, Any] = {}
        for key, child in node.mapping.items():
            base = kinds.get(key)
            sections = [] if key not in cls.model_fields else annotated_models(cls.model_fields[key].annotation)
            if base is not None and isinstance(child.value, list):
                blocks = [self.block(item, base) for item in child.items]
                values[key] = [None if block is None else block.config for block in blocks]
            elif base is not None and child.value is not None:
                parts[key] = self.block(child, base, partial=partial)
                self._refuse_inner_quantizer(parts[key], child)
            elif len(sections) == 1 and child.is_mapping and nested_kinds(sections[0]):  # type: ignore[arg-type]
                parts[key] = self.section(sections[0], child, f"{name}.{key}")
            else:
                values[key] = child.plain()
        failed = {key for key, part in parts.items() if part is None}
        values |= {key: part.config for key, part in parts.items() if part is not None}
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            explain(error, cls, node, self.problems, ignore=failed, partial=partial)
            _strict_alone(cls, {key: values[key] for key in values if key not in parts}, node, self.problems)
            return None
        _strict(values, config, node, self.problems)
        if failed or len(self.problems) > before:
            return None
        origins = _origins(node, config, name)
        for key, part in parts.items():
            assert part is not None
            origins.pop(key, None)
            origins |= {f"{key}.{field}" if field else key: origin for field, origin in part.origins.items()}
        return Parsed(config, origins, node)

    def _refuse_inner_quantizer(self, inner: Parsed | None, node: Node) -> None:
        """Weights are packed as the block in the slot says; a quantizer further in would say nothing."""
        if inner is not None and isinstance(inner.config, QuantizableConfig) and inner.config.quantizer is not None:
            message = "has a quantizer of its own, which would have no effect; give it to the block around it"
            self.problems.at(node, message)


SectionT = TypeVar("SectionT", bound=BaseModel)


def section(cls: type[SectionT], node: Node, registry: Registry | None = None) -> SectionT:
    """A pydantic model from a tree of YAML. Raises ConfigError with everything wrong, each with its place."""
    problems = Problems()
    parsed = Parser(registry or Registry(), Resolver(None, problems), problems).section(cls, node, cls.__name__)
    problems.raise_any()
    assert parsed is not None
    config: SectionT = parsed.config
    return config


def _wrong_place(cls: type[BlockConfig], name: str, base: type[BlockConfig]) -> str:
    if issubclass(cls, PositionConfig) and base is AttentionPositionConfig:
        return f"position '{name}' is {cls.form}: it goes to embedding.position; expected a rotating or biasing one"
    if issubclass(cls, PositionConfig) and base is AdditivePositionConfig:
        return f"position '{name}' is {cls.form}: it goes to 'position'; expected an additive one, such as learned"
    return f"{base.kind} '{name}' is no {base.__name__.removesuffix('Config')}"


def _strict(values: Any, got: Any, node: Node, problems: Problems) -> None:
    """Refuse what pydantic converted between kinds of scalar: YAML's ``no`` is a string, never false; 1 is not true."""
    if isinstance(got, BaseModel) and isinstance(values, dict):
        for key, child in node.mapping.items():
            if key in values and key in type(got).model_fields:
                _strict(values[key], getattr(got, key), child, problems)
    elif isinstance(values, (list, tuple)) and isinstance(got, (list, tuple)):
        for value, item, child in zip(values, got, node.items, strict=False):
            _strict(value, item, child, problems)
    elif isinstance(values, (str, bool, int, float)) and not isinstance(got, Enum):
        wanted = next((label for kind, label in _LABELS if isinstance(got, kind)), None)
        found = next(label for kind, label in _LABELS if isinstance(values, kind))
        if wanted and (wanted != found):
            hint = "; write true or false" if wanted == "true or false" else ""
            problems.at(node, f"found {shown(values)}, {_ARTICLES[found]}; expected {_ARTICLES[wanted]}{hint}")


def _strict_alone(cls: type[BaseModel], values: dict[str, Any], node: Node, problems: Problems) -> None:
    """``_strict`` for the fields that are right by themselves in a model that as a whole is not."""
    for key, value in values.items():
        info = cls.model_fields.get(key)
        if info is None or isinstance(value, dict):
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]
            got = adapter.validate_python(value)
        except ValidationError:
            continue
        _strict(value, got, node.mapping[key], problems)


_LABELS = ((bool, "true or false"), (int, "number"), (float, "number"), (str, "string"))
_ARTICLES = {"true or false": "true or false", "number": "a number", "string": "a string"}


def _origins(node: Node, config: BaseModel, name: str) -> dict[str, str]:
    """Dotted field -> ``file:line``, or whose default it is."""
    found: dict[str, str] = {}
    for key in type(config).model_fields:
        child, value = node.mapping.get(key), getattr(config, key)
        if child is None:
            found[key] = f"default of {name}"
        elif isinstance(value, BaseModel) and child.is_mapping:
            found |= {f"{key}.{field}": origin for field, origin in _origins(child, value, name).items()}
        else:
            found[key] = child.place.short
    return found
