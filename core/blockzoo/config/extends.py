"""One tree of a model's YAML: all that it extends under it, overrides on top, not checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockzoo.config.merge import merge
from blockzoo.config.node import Node, Place, Problems, from_python, shown
from blockzoo.config.shipped import find, is_path
from blockzoo.config.yaml_source import from_overrides, read_file
from blockzoo.errors import ConfigError
from blockzoo.registry import Registry

MAX_EXTENDS = 32


def merged(
    ref: str | Path | Mapping[str, Any], overrides: Mapping[str, object] | None = None, *, registry: Registry
) -> Node:
    """The YAML of a model as one tree, all that it extends under it and the overrides on top, not checked yet."""
    problems = Problems()
    root = merged_tree(ref, overrides, registry, problems)
    problems.raise_any()
    return root


def merged_tree(
    ref: str | Path | Mapping[str, Any],
    overrides: Mapping[str, object] | None,
    registry: Registry,
    problems: Problems,
    alone: bool = False,
) -> Node:
    """The same, with ``problems`` noted for more to come, and raised only where there is no tree. ``alone``: it may
    extend a shipped config and no file: a checkpoint may come from strangers.
    """
    root = _read(ref, registry, problems, alone)
    if problems.overflow:
        problems.raise_any()
    for tree in from_overrides(dict(overrides or {}), problems):
        root = merge(root, tree) if root else None
    if root is None or not root.is_mapping:
        if root is not None:
            problems.at(root, f"found {shown(root)}; expected a mapping such as 'vocab_size: 256'")
        problems.raise_any()
    assert root is not None
    return root


def _read(ref: str | Path | Mapping[str, Any], registry: Registry, problems: Problems, alone: bool) -> Node | None:
    """The tree of a reference with all that it extends merged under it."""
    path = None if isinstance(ref, Mapping) else ref if isinstance(ref, Path) else find(ref, registry)
    root = from_python(ref, "mapping", problems) if path is None else read_file(path, problems)
    if root is None or not root.is_mapping:
        return root
    if path is not None and root.get("name") is None:  # a file's own name, never the name of what it extends
        name = Node(path.stem, Place(str(path)), "name")
        root = root.replaced({"name": name, **root.without("name").mapping})
    extends = root.get("extends")
    if alone and extends is not None and isinstance(extends.value, str) and is_path(extends.value):
        why = "a checkpoint extends no other file; write what it says here, or a shipped name"
        problems.at(extends, f"found {shown(extends)}: {why}")
        problems.raise_any()
    return _extended(root, path, registry, problems, () if path is None else (path.resolve(),))


def _extended(
    root: Node, file: Path | None, registry: Registry, problems: Problems, open_files: tuple[Path, ...]
) -> Node:
    extends = root.get("extends")
    if extends is None:
        return root.without("extends")
    own = root.without("extends")
    if not isinstance(extends.value, str):
        problems.at(extends, f"found {shown(extends)}; expected the name of a config or the path of a file")
        return own
    try:
        relative_to = file.parent if file is not None else None
        path = find(extends.value, registry, relative_to)
    except ConfigError as error:
        problems.at(extends, error.problems[0].message)
        problems.raise_any()  # without its base nearly everything would be missing
        raise
    if path.resolve() in open_files:
        problems.at(extends, "extends goes in a circle: " + " -> ".join(p.name for p in (*open_files, path)))
        return own
    if len(open_files) >= MAX_EXTENDS:
        problems.at(extends, f"extends goes through more than {MAX_EXTENDS} files")
        return own
    base = read_file(path, problems)
    if base is not None and not base.is_mapping:
        problems.at(base, f"found {shown(base)}; expected a mapping")
    if base is None or not base.is_mapping:
        problems.raise_any()
        raise AssertionError("a file that can't be read has told why")
    return merge(_extended(base, path, registry, problems, (*open_files, path.resolve())), own)
