"""Names -> blocks: the ``blocks:`` of a config, ``use:`` with differences, and bare words."""

from __future__ import annotations

from blockzoo.config.merge import PATTERNS, merge
from blockzoo.config.node import MAX_DEPTH, Node, Problems, shown
from blockzoo.errors import nearest


class Resolver:
    """Turns what stands in a slot into one mapping with a ``type``."""

    def __init__(self, blocks: Node | None, problems: Problems) -> None:
        self.problems = problems
        self.used: set[str] = set()
        self._resolved: dict[int, tuple[Node, Node | None]] = {}  # id -> (the node itself, kept alive; result)
        self.blocks: dict[str, Node] = {}
        if blocks is None:
            return
        if not blocks.is_mapping:
            problems.at(blocks, f"found {shown(blocks)}; expected a mapping of names to blocks")
        for name, node in blocks.mapping.items():
            if name == "none":
                problems.at_key(blocks, name, "'none' means that there is no block; choose another name")
            elif node.value is not None:
                self.blocks[name] = node

    def __call__(self, node: Node) -> Node | None:
        """A mapping with a ``type`` and no ``use``. None, with the problem told, where there is none."""
        return self._resolve(node, ())

    def _resolve(self, node: Node, open_names: tuple[str, ...]) -> Node | None:
        if id(node) not in self._resolved:
            self._resolved[id(node)] = (node, self._follow(node, open_names))
        return self._resolved[id(node)][1]

    def _follow(self, node: Node, open_names: tuple[str, ...]) -> Node | None:
        if isinstance(node.value, str):
            return self._named(node, open_names)
        if not node.is_mapping:
            self.problems.at(
                node, f"found {shown(node)}; expected the name of a block, or a mapping with 'type' or 'use'"
            )
            return None
        if pattern := next((key for key in PATTERNS if key in node.mapping), None):
            self.problems.at_key(node, pattern, "a pattern belongs to a slot of 'layers', not here")
            return None
        use, kind = node.mapping.get("use"), node.mapping.get("type")
        if use is not None and kind is not None:
            self.problems.at_key(node, "use", "'use' and 'type' in one block; 'use' takes the type of what it names")
            return None
        if use is None:
            return self._typed(node, kind)
        if not isinstance(use.value, str):
            self.problems.at(use, f"found {shown(use)}; expected the name of a block{nearest('', self.blocks)}")
            return None
        named = self._named(use, open_names)
        return None if named is None else merge(named, node.without("use"))

    def _typed(self, node: Node, kind: Node | None) -> Node | None:
        if kind is None:
            name = node.path.removeprefix("blocks.")
            others = set(self.blocks) - {name}
            hint = nearest(name, others) if node.path.startswith("blocks.") and "mean" in nearest(name, others) else ""
            self.problems.at(node, f"a block needs 'type' or 'use'{hint}")
            return None
        if not isinstance(kind.value, str):
            self.problems.at(kind, f"found {shown(kind)}; expected the name of a type")
            return None
        return node

    def _named(self, word: Node, open_names: tuple[str, ...]) -> Node | None:
        name = word.value
        assert isinstance(name, str)
        if name in open_names:
            self.problems.at(word, f"'use' goes in a circle: {' -> '.join((*open_names, name))}")
            return None
        if len(open_names) >= MAX_DEPTH:
            self.problems.at(word, f"'use' goes through more than {MAX_DEPTH} blocks")
            return None
        if name in self.blocks:
            self.used.add(name)
            return self._resolve(self.blocks[name], (*open_names, name))
        return Node({"type": word}, word.place, word.path)
