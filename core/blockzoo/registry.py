"""Names -> what plugins registered: blocks, ops, kernels, families, YAML folders.

A canonical name is ``plugin:name``. A bare name means the built-in first, else the one plugin that has it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockzoo.blocks import BASES, KINDS, BlockConfig
from blockzoo.errors import PluginError, nearest
from blockzoo.kernels import Kernel, Op

if TYPE_CHECKING:
    from blockzoo.checkpoints.family import Family
    from blockzoo.recording.player import Player


def source_of(thing: object) -> str:
    """The file that defines a class, function or the class of an object: for messages that name both sides."""
    for candidate in (thing, getattr(thing, "function", None), getattr(thing, "reference", None), type(thing)):
        try:
            return inspect.getsourcefile(candidate) or "?"  # type: ignore[arg-type]
        except TypeError:
            continue
    return "?"


@dataclass(frozen=True)
class Component:
    """One registered thing: for ``blockzoo plugins`` and ``blockzoo list``."""

    kind: str
    name: str
    plugin: str

    @property
    def canonical(self) -> str:
        return f"{self.plugin}:{self.name}"


@dataclass
class Registry:
    """Everything registered. ``builtin``: the names of the plugins whose bare names come first and are reserved.

    ``missing``: plugin name -> why it isn't loaded, so that asking for one of its blocks can say so.
    """

    builtin: frozenset[str] = frozenset()
    things: dict[tuple[str, str, str], Any] = field(default_factory=dict)  # (kind, name, plugin) -> thing
    config_folders: dict[str, list[Path]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    # --- looking up ---

    def get(self, kind: str, name: str) -> Any:
        """The thing of that kind and (bare or canonical) name. Raises PluginError naming near ones or why it is
        missing.
        """
        return self.things[self._key(kind, name)]

    def canonical(self, kind: str, name: str) -> str:
        """``plugin:name`` for a bare or canonical name."""
        _, bare, plugin = self._key(kind, name)
        return f"{plugin}:{bare}"

    def block(self, kind: str, name: str) -> type[BlockConfig]:
        """The config class of a block."""
        return self.get(kind, name)

    def name_of(self, thing: object, kind: str) -> str:
        """The canonical name under which a config class (or other thing) is registered."""
        for (k, name, plugin), registered in self.things.items():
            if k == kind and registered is thing:
                return f"{plugin}:{name}"
        raise PluginError(f"{thing!r} is not registered as a {kind}")

    def names(self, kind: str) -> list[str]:
        """The names a user may write: bare ones, and canonical ones where the bare one would mean another's."""
        found = []
        for k, name, plugin in self.things:
            if k == kind:
                bare_means = self._find(kind, name)
                found.append(name if bare_means == [(k, name, plugin)] else f"{plugin}:{name}")
        return sorted(found)

    def components(self, plugin: str | None = None) -> list[Component]:
        """All that is registered, or what one plugin registered."""
        return [Component(k, n, p) for k, n, p in sorted(self.things) if plugin in (None, p)]

    def kernels(self) -> dict[str, list[Kernel]]:
        """op name -> the kernels for it. Kernel names are canonical; a kernel for an op that nobody has is left out."""
        found: dict[str, list[Kernel]] = {}
        for (kind, _, _), (op, kernel) in ((k, v) for k, v in self.things.items() if k[0] == "kernel"):
            assert kind == "kernel"
            found.setdefault(op, []).append(kernel)
        return found

    def players(self) -> list[Player]:
        return [player for (kind, _, _), player in self.things.items() if kind == "player"]

    def ops(self) -> dict[str, Op]:
        return {name: op for (kind, name, _), op in self.things.items() if kind == "op"}

    def families(self) -> dict[str, Family]:
        return {name: family for (kind, name, _), family in self.things.items() if kind == "family"}

    def forget(self, plugin: str) -> None:
        """Drop all that a plugin registered, and why it was missing."""
        self.things = {key: thing for key, thing in self.things.items() if key[2] != plugin}
        self.config_folders.pop(plugin, None)
        self.missing.pop(plugin, None)

    def _find(self, kind: str, name: str) -> list[tuple[str, str, str]]:
        plugin, colon, bare = name.rpartition(":")
        keys = [key for key in self.things if key[0] == kind and key[1] == bare and (not colon or key[2] == plugin)]
        return [key for key in keys if key[2] in self.builtin] or keys

    def _key(self, kind: str, name: str) -> tuple[str, str, str]:
        keys = self._find(kind, name)
        if len(keys) == 1:
            return keys[0]
        if keys:
            options = ", ".join(f"{plugin}:{bare}" for _, bare, plugin in keys)
            raise PluginError(f"{kind} '{name}' is ambiguous; write one of {options}")
        plugin = name.rpartition(":")[0]
        if plugin in self.missing:
            raise PluginError(f"no {kind} '{name}': plugin '{plugin}' is not loaded ({self.missing[plugin]})")
        raise PluginError(f"no {kind} '{name}'{nearest(name, self.names(kind))}{self.not_loaded()}")

    def not_loaded(self) -> str:
        """What to add where a name is unknown: the plugins that might have had it, and why they aren't here."""
        alike: dict[str, list[str]] = {}
        for plugin, why in sorted(self.missing.items()):
            alike.setdefault(why, []).append(plugin)
        reasons = "; ".join(f"{', '.join(plugins)}: {why}" for why, plugins in alike.items())
        return f" (plugins not loaded: {reasons})" if reasons else ""


class Registrar:
    """The door through which one plugin registers; it collects, and the host commits all of it or nothing."""

    def __init__(self, registry: Registry, plugin: str) -> None:
        self._registry = registry
        self.plugin = plugin
        self._collected: dict[tuple[str, str, str], Any] = {}
        self._places: dict[tuple[str, str, str], str] = {}  # file:line of the plugin that registered it

    def block(self, kind: str, name: str, config: type[BlockConfig]) -> None:
        """Register a block (quantizers too): YAML's ``type: name`` in a slot of that kind.

        Raises PluginError for an unknown kind, a config that isn't one of that kind, or a taken name.
        """
        if kind not in KINDS:
            raise PluginError(f"no kind of block '{kind}'{nearest(kind, KINDS)}")
        if not (isinstance(config, type) and issubclass(config, BASES[kind])):
            raise PluginError(f"{kind} '{name}': {config!r} is not a subclass of {BASES[kind].__name__}")
        self._add(kind, name, config)

    def op(self, op: Op) -> None:
        """Register an op: the function that kernels implement."""
        self._add("op", op.name, op)

    def kernel(self, op: str, kernel: Kernel) -> None:
        """Register a kernel for an op of that name, anybody's: it is resolved after all plugins are loaded."""
        self._add("kernel", kernel.name, (op, kernel), of=kernel)

    def player(self, name: str, player: Player) -> None:
        """Register who makes the calls of recorded decoding steps."""
        self._add("player", name, player)

    def family(self, family: Family) -> None:
        """Register a family of checkpoints under its name."""
        self._add("family", family.name, family)

    def commit(self) -> None:
        """Make everything collected visible."""
        self._registry.things.update(self._collected)
        for (_, name, plugin), thing in self._collected.items():
            if isinstance(thing, type) and issubclass(thing, BlockConfig):
                thing.registered = f"{plugin}:{name}"

    def _add(self, kind: str, name: str, thing: Any, of: object = None) -> None:
        if not name or not all(part.isidentifier() for part in name.split(".")):
            raise PluginError(f"{kind} '{name}': a name is an identifier (letters, digits, underscores)")
        key = (kind, name, self.plugin)
        place = _place_of_call()
        old = self._collected.get(key, self._registry.things.get(key))
        if old is not None and not _same(old, thing):
            twice = f"{kind} '{name}' is registered twice by '{self.plugin}'"
            if key in self._collected:
                raise PluginError(f"{twice}: {self._places[key]} and {place}; give each a name of its own")
            raise PluginError(
                f"{twice}, at {place}: another object than in the call before; make it once, at the module's top level,"
                " and only register it in blockzoo_register"
            )
        reserved = [k for k in self._registry.things if k[:2] == (kind, name) and k[2] in self._registry.builtin]
        if reserved and self.plugin not in self._registry.builtin:
            theirs = self._registry.things[reserved[0]]
            ours = source_of(theirs[1] if isinstance(theirs, tuple) else theirs)
            raise PluginError(
                f"{kind} '{name}' is reserved: blockzoo ships one ({ours}); {source_of(of or thing)} needs another"
            )
        others = [k for k in self._registry.things if k[:2] == (kind, name) and k[2] != self.plugin]
        if kind in ("op", "family") and others:
            raise PluginError(
                f"{kind} '{name}' is taken by plugin '{others[0][2]}': plugins share the names of a {kind}"
            )
        self._collected[key] = thing
        self._places[key] = place


def _place_of_call() -> str:
    """File and line outside this file that called into it."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _same(old: Any, new: Any) -> bool:
    """The same object again, or the same source run again (a reloaded module, a notebook cell)."""
    if isinstance(old, tuple):
        return old[0] == new[0] and old[1] is new[1]
    return old is new


def bare(name: str) -> str:
    """The part of a canonical name after the plugin."""
    return name.rpartition(":")[2]
