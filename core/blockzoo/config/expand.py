"""``layers:`` -> for each layer, what stands in each of its slots.

A pattern belongs to one slot: ``cycle``, ``runs``, ``list``, or one block for all. Overrides change single layers; what
a layer leaves out comes from the model's level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blockzoo.config.merge import PATTERNS, merge
from blockzoo.config.node import DEFAULT, Node, Problems, shown, unknown_key

SLOTS = ("mixer", "ffn", "norm", "position", "residual", "quantizer")
INHERITED = {"norm": None, "position": "none", "residual": "pre_norm", "quantizer": "none"}
"""The slots that a model gives to its layers, and what it means when it doesn't."""

MAX_LAYERS = 10_000
MAX_OVERRIDDEN = 1_000_000
_KEYS = ("count", *SLOTS, "overrides")
_SPAN = re.compile(r"(\d+)\s*-\s*(\d+)\Z")


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """What stands in a slot of a layer; ``explicit`` where ``layers`` says so, not the model's level."""

    node: Node
    explicit: bool


Layer = dict[str, Choice]


def expand(root: Node, problems: Problems) -> list[Layer]:
    """The slots of every layer, in order. Empty, with the problems told, where the layers can't be counted."""
    layers = root.get("layers")
    if layers is None:
        problems.at(root, "missing key 'layers'")
        return []
    if not layers.is_mapping:
        problems.at(layers, f"found {shown(layers)}; expected a mapping with 'count', 'mixer' and 'ffn'")
        return []
    for key, value in layers.mapping.items():
        if key not in _KEYS:
            problems.at_key(layers, key, unknown_key(key, value, _KEYS))
    count = layer_count(root, problems)
    if count is None:
        return []
    columns = {slot: column for slot in SLOTS if (column := _column(root, layers, slot, count, problems))}
    expanded = [{slot: column[i] for slot, column in columns.items()} for i in range(count)]
    if overrides := layers.get("overrides"):
        _override(overrides, expanded, problems)
    return expanded


def layer_count(root: Node, problems: Problems) -> int | None:
    """``layers.count``, if it is a sensible one."""
    layers = root.get("layers")
    if layers is None or not layers.is_mapping:
        return None
    if "count" not in layers.mapping:
        problems.at(layers, "missing key 'count' (how many layers)")
        return None
    return _integer(layers.mapping["count"], MAX_LAYERS, problems)


def _column(root: Node, layers: Node, slot: str, count: int, problems: Problems) -> list[Choice] | None:
    """What stands in one slot, layer by layer."""
    node = layers.get(slot)
    if node is not None:
        nodes = _pattern(node, count, problems)
        if nodes is None:
            return None
        choices: dict[int, Choice] = {}
        return [choices.setdefault(id(n), Choice(n, explicit=True)) for n in nodes]
    if slot not in INHERITED:
        problems.at(layers, f"missing key '{slot}' (none leaves it out)")
        return None
    if (node := root.get(slot)) is None:
        word = INHERITED[slot]
        if word is None:
            problems.at(root, f"missing key '{slot}'; give it here or in 'layers'")
            return None
        node = Node(word, DEFAULT, slot)
    return [Choice(node, explicit=False)] * count


# --- patterns ---------------------------------------------------------------------------------------------------


def _pattern(node: Node, count: int, problems: Problems) -> list[Node] | None:
    """What stands in each layer of one slot."""
    found = [key for key in PATTERNS if key in node.mapping]
    if not found:
        return [node] * count
    kind = found[0]
    allowed = (kind, "partial") if kind == "cycle" else (kind,)
    for key in node.mapping:
        if key not in allowed:
            only = "only 'partial'" if kind == "cycle" else "nothing"
            problems.at_key(
                node,
                key,
                f"unknown key '{key}': beside '{kind}' {only} may stand; options belong to the blocks it names",
            )
            return None
    parts = node.mapping[kind]
    if not parts.items:
        problems.at_key(node, kind, f"found {shown(parts)}; expected a list of blocks")
        return None
    if kind == "runs":
        nodes = _runs(node, parts.items, count, problems)
    else:
        nodes = parts.items
        if kind == "cycle":
            _check_cycle(node, len(nodes), count, problems)
        elif len(nodes) != count:
            problems.at_key(node, "list", f"{len(nodes)} blocks for {count} layers")
    return [nodes[i % len(nodes)] for i in range(count)]  # what is wrong with the blocks is told all the same


def _check_cycle(node: Node, length: int, count: int, problems: Problems) -> None:
    partial = node.mapping.get("partial")
    if partial is not None and not isinstance(partial.value, bool):
        problems.at(partial, f"found {shown(partial)}; expected true or false")
    elif count % length and not (partial and partial.value):
        problems.at_key(
            node,
            "cycle",
            f"{count} layers are not a whole number of cycles of {length}; change layers.count,"
            " or write 'partial: true' beside 'cycle' if the last one is meant to break off",
        )


def _runs(node: Node, parts: list[Node], count: int, problems: Problems) -> list[Node]:
    nodes: list[Node] = []
    for part in parts:
        length = part.mapping.get("count")
        rest = count - len(nodes)
        if length is not None:
            n = _integer(length, MAX_LAYERS, problems) or 1
        elif part is parts[-1]:
            n = max(rest, 1)
            if rest <= 0:
                problems.at(part, f"no layer is left for this run: {len(nodes)} of {count} are taken")
                return nodes
        else:
            problems.at(part, "a run needs 'count'; only the last may leave it out and take the rest")
            n = 1
        nodes.extend([part.without("count") if part.is_mapping else part] * n)
        if len(nodes) > MAX_LAYERS:
            break
    if len(nodes) != count:
        problems.at_key(node, "runs", f"runs of {len(nodes)} layers in all for layers.count {count}")
    return nodes


# --- overrides of single layers ---------------------------------------------------------------------------------


def _override(overrides: Node, expanded: list[Layer], problems: Problems) -> None:
    if not isinstance(overrides.value, list):
        problems.at(overrides, f"found {shown(overrides)}; expected a list such as [{{at: [0, -1], position: none}}]")
        return
    merged: dict[tuple[int, int], Choice] = {}  # the same change to the same block is one block
    touched = 0
    for entry in overrides.items:
        if not entry.is_mapping:
            problems.at(entry, f"found {shown(entry)}; expected a mapping with 'at' and slots")
            continue
        for key, value in entry.mapping.items():
            if key not in ("at", *SLOTS):
                problems.at_key(entry, key, unknown_key(key, value, ("at", *SLOTS)))
        at = _indices(entry, len(expanded), problems)
        touched += len(at) * len(entry.mapping)
        if touched > MAX_OVERRIDDEN:
            problems.at(entry, f"overrides change more than {MAX_OVERRIDDEN:,} slots")
            return
        for slot in (s for s in SLOTS if entry.get(s)):
            over = entry.mapping[slot]
            for layer in (expanded[i] for i in at):
                base = layer.get(slot)
                key_ = (id(base), id(over))
                if key_ not in merged:
                    merged[key_] = Choice(over if base is None else merge(base.node, over), explicit=True)
                layer[slot] = merged[key_]


def _indices(entry: Node, count: int, problems: Problems) -> list[int]:
    """``at``: an index (negative from the end), a span ``2-5`` (both ends included), or a list of those."""
    at = entry.get("at")
    if at is None:
        problems.at(entry, "missing key 'at' (which layers: [0, -1] or 2-5)")
        return []
    found: dict[int, None] = {}
    for node in at.items if isinstance(at.value, list) else [at]:
        span = _SPAN.match(node.value) if isinstance(node.value, str) and len(node.value) < 20 else None
        if span:
            first, last = int(span[1]), int(span[2])
        elif isinstance(node.value, int) and not isinstance(node.value, bool):
            first = last = node.value + count if node.value < 0 else node.value
        else:
            problems.at(node, f"found {shown(node)}; expected a layer's index or a span such as 2-5")
            continue
        if 0 <= first <= last < count:
            found.update(dict.fromkeys(range(first, last + 1)))
        else:
            problems.at(node, f"found {shown(node)}; layers are 0 to {count - 1}, or -{count} to -1 from the end")
    return list(found)


def _integer(node: Node, most: int, problems: Problems) -> int | None:
    value = node.value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    problems.at(node, f"found {shown(node)}; expected a whole number from 1 to {most:,}")
    return None
