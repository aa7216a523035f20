"""One config over another: ``extends``, ``use`` with differences, overrides.

Mappings merge, lists replace, another ``type`` replaces the whole block, ``null`` deletes.
"""

from __future__ import annotations

from blockzoo.config.node import Node

PATTERNS = ("cycle", "runs", "list")
HEADS = ("type", "use", *PATTERNS)


def merge(base: Node, over: Node) -> Node:
    """``over`` laid on ``base``. A null over something deletes it; a null over nothing stays null."""
    if isinstance(base.value, str) and over.is_mapping and head(over) is None:
        base = Node({"use": base}, base.place, base.path)  # differences to a block given by name
    if not (base.is_mapping and over.is_mapping) or _is_another_block(base, over):
        return over
    entries, keys = dict(base.mapping), dict(base.keys)
    from_outside = over.place.line is None  # an override: what it only passes through is better found in the file
    for key, node in over.mapping.items():
        if not (from_outside and key in entries and node.is_mapping):
            keys[key] = over.key_place(key)
        if key not in entries:
            entries[key] = node
        elif node.value is None:
            del entries[key]
        else:
            entries[key] = merge(entries[key], node)
    place, path = (base.place, base.path) if from_outside else (over.place, over.path)
    return Node(entries, place, path, keys)


def head(node: Node) -> tuple[str, object] | None:
    """What makes a mapping the block that it is: its type, the name it uses, or the pattern it is."""
    for key in HEADS:
        if key in node.mapping:
            return key, node.mapping[key].value if key in ("type", "use") else None
    return None


def _is_another_block(base: Node, over: Node) -> bool:
    old, new = head(base), head(over)
    if old is None or new is None:
        return False
    return old[0] != new[0] or not _same_name(old[1], new[1])


def _same_name(old: object, new: object) -> bool:
    """Whether two names may mean the same: ``gqa`` and ``blocks:gqa`` may."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return old == new
    if ":" in old and ":" in new:
        return old == new
    return old.rpartition(":")[2] == new.rpartition(":")[2]
