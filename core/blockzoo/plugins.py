"""The plugin host: imports what discovery lets through, one plugin at a time, so that a broken one harms nothing.

pluggy's own loader skips a second entry point of one name, lets a failing import abort all, and has no notion of a
refusal; so pluggy only checks and calls the hooks here. A plugin registers wholly or not at all.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

from blockzoo.discovery import Plugin, State, discover
from blockzoo.errors import PluginError, nearest
from blockzoo.hooks import HookManager
from blockzoo.registry import Registrar, Registry
from blockzoo.selection import Selection
from blockzoo.shipped import PACKAGE, shipped_configs

__all__ = ["API_VERSION", "Host", "Loaded", "host", "load_plugins", "reset_host", "shipped_configs"]

API_VERSION = 1
"""The version of hooks and contracts; a plugin that sets ``BLOCKZOO_API`` to another is incompatible."""


@dataclass(frozen=True)
class Loaded:
    """What one pass of loading gave: the registry, a row for each plugin, and the hooks of those that loaded."""

    selection: Selection
    registry: Registry
    plugins: tuple[Plugin, ...]
    hooks: HookManager


def load_plugins(registry: Registry | None = None, selection: Selection | None = None) -> Loaded:
    """Discover, import and register. ``selection`` defaults to what the environment says.

    Never raises for what a plugin does wrong: that is in its row, and in ``registry.missing``. Raises InputError where
    the selection names a plugin that isn't installed.
    """
    registry = Registry() if registry is None else registry
    selection = Selection.from_environment() if selection is None else selection
    found = discover(selection)
    registry.builtin = frozenset(plugin.name for plugin in found if plugin.builtin)
    hooks = HookManager()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the verb's own document
        plugins = [_load(plugin, hooks, registry) if plugin.state == "found" else plugin for plugin in found]
    plugins = [_warned(plugin, registry) for plugin in plugins]
    loaded = {plugin.name for plugin in plugins if plugin.state == "loaded"}
    registry.missing |= {p.name: f"{p.state}: {p.error}" for p in plugins if p.name not in loaded}
    return Loaded(selection, registry, tuple(plugins), hooks)


class Host:
    """Loads once, whoever asks first and from whichever thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loading = False
        self._loaded: Loaded | None = None

    def load(self, selection: Selection | None = None) -> Host:
        """Load the plugins, once. A given selection is exported to the environment, where worker processes find it.

        Raises PluginError when another selection is loaded already, or when a plugin asks for the host at its import.
        """
        with self._lock:
            if self._loading:
                raise PluginError(
                    "a plugin asked for the host while plugins are being loaded; do it later, in a function"
                )
            if self._loaded is None:
                self._loading = True
                try:
                    self._loaded = load_plugins(selection=selection)
                finally:
                    self._loading = False
                if selection is not None:
                    selection.export()
            elif selection not in (None, self._loaded.selection):
                raise PluginError("plugins are loaded already, by another selection; choose before the first use")
        return self

    @property
    def registry(self) -> Registry:
        return self._all.registry

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """A row for each installed plugin."""
        return self._all.plugins

    @property
    def hooks(self) -> HookManager:
        return self._all.hooks

    @property
    def _all(self) -> Loaded:
        self.load()
        assert self._loaded is not None
        return self._loaded


_host = Host()


def host() -> Host:
    """The process-wide host, loaded."""
    return _host.load()


def reset_host() -> None:
    """Forget the process-wide host: the next ``host()`` loads again. For tests."""
    global _host
    _host = Host()


# --- one plugin ---


def _load(plugin: Plugin, hooks: HookManager, registry: Registry) -> Plugin:
    try:
        module = _import(plugin)
        version = getattr(module, "BLOCKZOO_API", API_VERSION)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an exit is no reason to stop either
        return _failed(plugin, "import_failed", error)
    if version != API_VERSION:
        error_text = f"written for plugin API {version!r}, this blockzoo has {API_VERSION}"
        return replace(plugin, state="incompatible", error=error_text)
    registrar = Registrar(registry, plugin.name)
    try:
        hooks.add(module, plugin.name)
        hooks.call(module, "blockzoo_register", registry=registrar)
        folders = [folder for given in hooks.call(module, "blockzoo_configs") for folder in _folders(given)]
    except BaseException as error:
        if hooks.get_plugin(plugin.name) is not None:
            hooks.unregister(name=plugin.name)
        if isinstance(error, KeyboardInterrupt):
            raise
        return _failed(plugin, "register_failed", error)
    registrar.commit()
    registry.config_folders[plugin.name] = folders
    return replace(plugin, state="loaded", components=tuple(registry.components(plugin.name)))


def _import(plugin: Plugin) -> object:
    entry = plugin.installed.entry
    if plugin.builtin:
        _import_own(entry.module.partition(".")[0])
    return entry.load()


def _import_own(package: str) -> None:
    """Import a package of ours from beside core, whatever stands earlier on sys.path under its name."""
    if package in sys.modules:
        return
    spec = PathFinder.find_spec(package, [str(PACKAGE.parent), str(PACKAGE.parent.parent / "plugins")])
    if spec is None or spec.loader is None:
        return
    module = sys.modules[package] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[package]
        raise


def _folders(given: object) -> Iterator[Path]:
    """Check what ``blockzoo_configs`` returned."""
    if not isinstance(given, (list, tuple)):
        raise PluginError(f"blockzoo_configs must return a list of folders, found {given!r}")
    for folder in given:
        if not isinstance(folder, (str, Path)) or not Path(folder).is_dir():
            raise PluginError(f"blockzoo_configs: {str(folder)!r} is not a folder")
        yield Path(folder)


def _warned(plugin: Plugin, registry: Registry) -> Plugin:
    """A loaded plugin with a warning where it brings kernels for ops that nobody has."""
    ops = registry.ops()
    for component in plugin.components:
        if component.kind == "kernel":
            op, kernel = registry.things[component.kind, component.name, component.plugin]
            if op not in ops:
                return replace(
                    plugin, error=f"kernel '{kernel.name}' is for op '{op}', which nobody has{nearest(op, ops)}"
                )
    return plugin


# --- what went wrong, in one line ---


def _failed(plugin: Plugin, state: State, error: BaseException) -> Plugin:
    text = "".join(traceback.format_exception(error))
    return replace(plugin, state=state, error=one_line(error, plugin.installed.entry.module), traceback=text)


def one_line(error: BaseException, module: str = "") -> str:
    """An exception in one readable line, with the innermost place inside the package of ``module``."""
    try:
        message = " ".join(str(error).split())
    except BaseException:  # a message that can't be printed must not break the report of it
        message = "(its message can't be printed)"
    text = message if isinstance(error, PluginError) else f"{type(error).__name__}: {message}".removesuffix(": ")
    text = text if len(text) <= 400 else f"{text[:400]}..."
    package = module.partition(".")[0]
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if package and str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
            return f"{text} ({frame.f_code.co_filename}:{line})"
    return text
