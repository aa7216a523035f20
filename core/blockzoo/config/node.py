"""A tree of values in which each knows where it was written, and the list of what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from blockzoo.errors import ConfigError, Problem, nearest

MAX_DEPTH = 64
MAX_NODES = 200_000
SHOWN_PROBLEMS = 100

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written. ``source``: a file, ``override KEY``, ``mapping``, or ``default``."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"

    @property
    def short(self) -> str:
        """``file:line``: what ``show --expanded`` prints beside a value."""
        return self.source if self.line is None else f"{self.source}:{self.line}"

    @property
    def order(self) -> tuple[str, int, int]:
        return (self.source, self.line or 0, self.column or 0)


DEFAULT = Place("default")


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One value. ``path``: its dotted path in the file it was written in. ``keys``: where a mapping's keys stand."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    path: str = ""
    keys: Mapping[str, Place] = field(default_factory=dict)

    @property
    def mapping(self) -> dict[str, Node]:
        """The entries of a mapping; none for any other value."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def items(self) -> list[Node]:
        """The items of a list; none for any other value."""
        return self.value if isinstance(self.value, list) else []

    def get(self, key: str) -> Node | None:
        """The entry of that key; None where it is absent or null."""
        found = self.mapping.get(key)
        return None if found is None or found.value is None else found

    def key_place(self, key: str) -> Place:
        return self.keys.get(key, self.place)

    def child_path(self, key: str | int) -> str:
        return f"{self.path}.{key}" if self.path else str(key)

    def without(self, *names: str) -> Node:
        """The same mapping with some keys left out."""
        return self.replaced({key: node for key, node in self.mapping.items() if key not in names})

    def replaced(self, value: dict[str, Node]) -> Node:
        """A mapping at the same place with other entries."""
        return Node(value, self.place, self.path, self.keys)

    def plain(self) -> Any:
        """The value as dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, dotted: str) -> Node:
        """The deepest entry that exists on a dotted path."""
        node = self
        for part in dotted.split(".") if dotted else ():
            if part in node.mapping:
                node = node.mapping[part]
            elif part.isdigit() and int(part) < len(node.items):
                node = node.items[int(part)]
            else:
                break
        return node


def shown(value: object) -> str:
    """A value as a message shows it, short."""
    if isinstance(value, Node):
        value = value.value
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def unknown_key(key: str, value: Node, known: Collection[str], otherwise: str = "") -> str:
    """What is wrong with a key that isn't ``known``, and what to write: of a dotted one, the mappings it stands for."""
    first, *rest = key.split(".")
    if not all(rest) or not rest or first not in known:
        return f"unknown key '{key}'{nearest(key, known) or otherwise}"
    text = "..." if isinstance(value.value, (dict, list)) else shown(value)
    for part in reversed(rest):
        text = f"{{{part}: {text}}}"
    return f"unknown key '{key}'; a dotted key is for overrides, here write {first}: {text}"


class Problems:
    """Collects everything that is wrong, so that all of it is told at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Place, str], None] = {}
        self._told: set[tuple[Place, str]] = set()
        self.overflow = False  # something was cut off: what follows from that is not worth telling

    def add(self, place: Place, path: str, message: str) -> None:
        if (place, message) in self._told:  # the same words again, reached by another way (use, a pattern)
            return
        self._told.add((place, message))
        self._found[place, f"{path}: {message}" if path else message] = None

    def at(self, node: Node, message: str) -> None:
        """Something wrong with a value."""
        self.add(node.place, node.path, message)

    def at_key(self, node: Node, key: str, message: str) -> None:
        """Something wrong with a key of a mapping, or with its value as a whole."""
        self.add(node.key_place(key), node.child_path(key), message)

    def __len__(self) -> int:
        return len(self._found)

    def raise_any(self) -> None:
        """Raise ConfigError if there are any, sorted by place."""
        if not self._found:
            return
        found = sorted(self._found, key=lambda entry: (entry[0].order, entry[1]))
        problems = [Problem(str(place), message) for place, message in found[:SHOWN_PROBLEMS]]
        if len(found) > SHOWN_PROBLEMS:
            problems.append(Problem("", f"and {len(found) - SHOWN_PROBLEMS} more"))
        raise ConfigError(problems)


class TreeBuilder:
    """Counts what it makes: depth and size are bounded, however a file repeats itself."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.nodes = 0

    def bounded(self, place: Place, path: str, depth: int) -> bool:
        """Whether one more node fits. Tells once where it doesn't."""
        self.nodes += 1
        if self.nodes == MAX_NODES + 1:
            self.problems.add(place, "", f"more than {MAX_NODES:,} values once aliases are expanded")
        if depth == MAX_DEPTH + 1:
            self.problems.add(place, "", f"nested more than {MAX_DEPTH} deep")
        fits = self.nodes <= MAX_NODES and depth <= MAX_DEPTH
        self.problems.overflow |= not fits
        return fits


def from_python(value: object, source: str, problems: Problems, path: str = "") -> Node:
    """Dicts, lists, tuples and scalars as a tree; everything in it stands at ``source``."""
    place = Place(source)
    builder = TreeBuilder(problems)

    def convert(value: object, path: str, depth: int) -> Node:
        if not builder.bounded(place, path, depth):
            return Node(None, place, path)
        node = Node(None, place, path)
        if isinstance(value, Mapping):
            entries: dict[str, Node] = {}
            for key, item in value.items():
                if isinstance(key, str):
                    entries[key] = convert(item, node.child_path(key), depth + 1)
                else:
                    problems.add(place, path, f"key {shown(key)} is not a string")
            return Node(entries, place, path)
        if isinstance(value, (list, tuple)):
            return Node([convert(item, node.child_path(i), depth + 1) for i, item in enumerate(value)], place, path)
        if value is None or isinstance(value, (str, int, float, bool)):
            return Node(value, place, path)
        problems.add(place, path, f"found a {type(value).__name__}; a config holds mappings, lists and scalars")
        return node

    return convert(value, path, 1)
