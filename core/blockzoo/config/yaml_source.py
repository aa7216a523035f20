"""YAML text -> a tree in which each value knows its file, line and column.

PyYAML scans and composes; scalars are read as YAML 1.2 says: ``1e-5`` is a number, ``no``, ``on`` and ``yes`` are
strings. Refused, each with its place: duplicate keys, keys that aren't strings, tags, several documents, and files that
are too large, too deep, or expand to too much through aliases.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from blockzoo.config.node import MAX_DEPTH, Node, Place, Problems, Scalar, TreeBuilder, from_python, shown
from blockzoo.errors import ConfigError, InputError, Problem

MAX_BYTES = 512 * 1024
MAX_DIGITS = 100

_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


def read_yaml(path: str | Path) -> Node:
    """The tree of a YAML file. Raises ConfigError with everything that is wrong with it as YAML."""
    problems = Problems()
    node = read_file(Path(path), problems)
    problems.raise_any()
    assert node is not None
    return node


def read_file(path: Path, problems: Problems) -> Node | None:
    """The tree of a file, problems collected; None where there is none to go on with."""
    place = Place(str(path))
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problems.add(place, "", "not a regular file")
            return None
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        problems.add(place, "", f"can't be read: {error.strerror or error}")
        return None
    if len(data) > MAX_BYTES:
        problems.add(place, "", f"more than {MAX_BYTES // 1024} KiB; a config is small")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - before.rfind(b"\n")
        problems.add(Place(str(path), before.count(b"\n") + 1, column), "", "not UTF-8 text")
        return None
    return parse_yaml(text, str(path), problems)


def parse_yaml(text: str, source: str, problems: Problems) -> Node | None:
    """The tree of YAML text, problems collected; None where it is no YAML at all."""
    try:
        loader = _Loader(text, source, problems)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source, mark.line + 1, mark.column + 1) if mark else Place(source)
        problems.add(place, "", _syntax_message(error))
        return None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(source, before.count("\n") + 1, error.position - before.rfind("\n"))
        problems.add(place, "", f"character {error.character!r} is not allowed in YAML")
        return None
    if root is None:
        problems.add(Place(source, 1, 1), "", "empty")
        return None
    return _Converter(source, problems).convert(root, "", 1)


def parse_value(text: str) -> Any:
    """One value as YAML reads it: for ``key=value`` on a command line. Raises ConfigError."""
    problems = Problems()
    node = parse_yaml(text, "command line", problems) if text.strip() else None
    problems.raise_any()
    return None if node is None else node.plain()


def parse_override(text: str) -> tuple[str, Any]:
    """``layers.count=4`` -> ("layers.count", 4). Raises InputError or ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override {text!r}: write KEY=VALUE, such as layers.count=4")
    try:
        return key.strip(), parse_value(value)
    except ConfigError as error:
        raise ConfigError([Problem(f"override {key.strip()}", problem.message) for problem in error.problems]) from None


def from_overrides(overrides: dict[str, object], problems: Problems) -> list[Node]:
    """Each dotted override as a tree from the root, standing at ``override KEY``."""
    found = []
    for dotted, value in overrides.items():
        source = f"override {dotted}"
        parts = dotted.split(".")
        if not all(parts) or len(parts) >= MAX_DEPTH:
            problems.add(Place(source), "", "a key is names joined by dots, such as layers.count")
            continue
        node = from_python(value, source, problems, dotted)
        for depth in range(len(parts) - 1, -1, -1):
            node = Node({parts[depth]: node}, Place(source), ".".join(parts[:depth]))
        found.append(node)
    return found


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    message = ", ".join(part for part in (error.context, error.problem) if part)
    if "'\\t'" in message:
        message = "a tab can't indent YAML; use spaces"
    return f"not YAML: {message}"


class _Resolver(BaseResolver):
    """The scalars of YAML 1.2's core schema."""


for _name, (_pattern, _first) in _SCALARS.items():
    _Resolver.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML's stages up to its node graph, depth bounded, tags refused."""

    def __init__(self, text: str, source: str, problems: Problems) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self._source = source
        self._problems = problems
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self._depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested more than {MAX_DEPTH} deep", event.start_mark)
        if getattr(event, "tag", None) is not None:
            place = Place(self._source, event.start_mark.line + 1, event.start_mark.column + 1)
            self._problems.add(place, "", f"tag {shown(event.tag)}: tags are not read; write the plain value")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Converter(TreeBuilder):
    """PyYAML's node graph -> our tree. Aliases become copies, counted."""

    def __init__(self, source: str, problems: Problems) -> None:
        super().__init__(problems)
        self.source = source
        self.open: set[int] = set()

    def convert(self, node: yaml.Node, path: str, depth: int) -> Node:
        place = self._place(node)
        if not self.bounded(place, path, depth):
            return Node(None, place, path)
        if id(node) in self.open:
            self.problems.add(place, path, "an alias inside its own anchor")
            return Node(None, place, path)
        self.open.add(id(node))
        if isinstance(node, MappingNode):
            result = self._mapping(node, place, path, depth)
        elif isinstance(node, SequenceNode):
            items = [
                self.convert(item, f"{path}.{i}" if path else str(i), depth + 1) for i, item in enumerate(node.value)
            ]
            result = Node(items, place, path)
        else:
            assert isinstance(node, ScalarNode)
            result = Node(self._scalar(node, place, path), place, path)
        self.open.discard(id(node))
        return result

    def _mapping(self, node: MappingNode, place: Place, path: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for key_node, value_node in node.value:
            key_place = self._place(key_node)
            key = self._scalar(key_node, key_place, path) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                found = shown(key) if isinstance(key_node, ScalarNode) else "a collection"
                self.problems.add(key_place, path, f"key {found} is not a string; quote it if it is meant")
                continue
            child_path = f"{path}.{key}" if path else key
            if key in keys:
                self.problems.add(key_place, child_path, f"key given twice; first at line {keys[key].line}")
                continue
            keys[key] = key_place
            entries[key] = self.convert(value_node, child_path, depth + 1)
        return Node(entries, place, path, keys)

    def _scalar(self, node: ScalarNode, place: Place, path: str) -> Scalar:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float") and len(text) > MAX_DIGITS:
            self.problems.add(place, path, f"a number of {len(text)} characters")
            return 0
        try:
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return text  # a number by its tag alone, which is refused already
        return text

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.source, node.start_mark.line + 1, node.start_mark.column + 1)
