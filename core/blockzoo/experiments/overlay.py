"""Values laid over a tree of YAML by dotted key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockzoo.config.merge import merge
from blockzoo.config.node import Node, Problems
from blockzoo.config.yaml_source import from_overrides


def with_overrides(node: Node, overrides: Mapping[str, Any]) -> Node:
    """A tree with values laid over it by dotted key. Raises ConfigError for what can't be laid over."""
    problems = Problems()
    for tree in from_overrides(dict(overrides), problems):
        node = merge(node, tree)
    problems.raise_any()
    return node
