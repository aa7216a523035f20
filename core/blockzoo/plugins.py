"""The plugin host: imports what discovery lets through, one plugin at a time, so that a broken one harms nothing.

pluggy's own loader skips a second entry point of one name, lets a failing import abort all, and has no notion of a
refusal; so pluggy only checks and calls the hooks here. A plugin registers wholly or not at all.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from blockzoo.discovery import Plugin, State, discover
from blockzoo.errors import PluginError, nearest
from blockzoo.hooks import HookManager
from blockzoo.importing import declared_api, forget_module, import_plugin, one_line
from blockzoo.registry import Registrar, Registry
from blockzoo.selection import Selection, check_file
from blockzoo.shipped import shipped_configs
from blockzoo.uncollected import uncollected

__all__ = ["API_VERSION", "Host", "Loaded", "host", "load_file", "load_plugins", "reset_host", "shipped_configs"]

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
                    with uncollected():
                        self._loaded = load_plugins(selection=selection)
                finally:
                    self._loading = False
                if selection is not None:
                    selection.export()
            elif selection not in (None, self._loaded.selection):
                raise PluginError("plugins are loaded already, by another selection; choose before the first use")
        return self

    def load_file(self, file: str | Path) -> Plugin:
        """Load one Python file as a plugin beside those that are loaded; once more after an edit, its blocks are
        replaced.

        Its name is the file's stem. Worker processes find it in the environment. Raises InputError where there is no
        such file and PluginError, naming the place, where it can't be loaded; what it brought before is gone then.
        """
        with self._lock:
            loaded = self.load()._all
            selection = loaded.selection.with_files([file])
            path = Path(file).expanduser().resolve()
            check_file(path)
            (row,) = [plugin for plugin in discover(selection) if plugin.installed.file == path]
            others = tuple(plugin for plugin in loaded.plugins if plugin.installed.file != path)
            if row.state == "found":
                forget_module(row.installed)
                loaded.hooks.forget(row.name)
                loaded.registry.forget(row.name)
                row = _warned(_load(row, loaded.hooks, loaded.registry), loaded.registry)
            if row.state != "loaded":
                loaded.registry.missing.setdefault(row.name, f"{row.state}: {row.error}")
                raise PluginError(f"{path}: {row.state}: {row.error}{_of_a_package(path)}")
            self._loaded = replace(loaded, selection=selection, plugins=(*others, row))
            selection.export()
            return row

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


def _of_a_package(path: Path) -> str:
    """What to do about a file that is no plugin by itself."""
    if not (path.parent / "__init__.py").exists():
        return ""
    return f"; it is part of the package {path.parent.name}: install that (pip install -e) and say its plugin's name"


_host = Host()


def host() -> Host:
    """The process-wide host, loaded; ``host().registry`` has what the plugins register."""
    return _host.load()


def load_file(file: str | Path) -> Plugin:
    """Load one Python file as a plugin, from a notebook or a script: ``load_file("my_block.py")``."""
    return host().load_file(file)


def reset_host() -> None:
    """Forget the process-wide host: the next ``host()`` loads again. For tests."""
    global _host
    _host = Host()


# --- one plugin ---


def _load(plugin: Plugin, hooks: HookManager, registry: Registry) -> Plugin:
    begin = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the verb's own document
        row = _import_and_register(plugin, hooks, registry)
    return replace(row, seconds=time.perf_counter() - begin)


def _import_and_register(plugin: Plugin, hooks: HookManager, registry: Registry) -> Plugin:
    if refusal := _wrong_api(plugin, declared_api(plugin.installed)):
        return refusal
    try:
        module = import_plugin(plugin.installed)
        version = getattr(module, "BLOCKZOO_API", None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an exit is no reason to stop either
        return _failed(plugin, "import_failed", error)
    if refusal := _wrong_api(plugin, version):
        return refusal
    registrar = Registrar(registry, plugin.name)
    try:
        hooks.add(module, plugin.name)
        hooks.call(module, "blockzoo_register", registry=registrar)
        folders = [folder for given in hooks.call(module, "blockzoo_configs") for folder in _folders(given)]
    except BaseException as error:
        hooks.forget(plugin.name)
        if isinstance(error, KeyboardInterrupt):
            raise
        return _failed(plugin, "register_failed", error)
    registrar.commit()
    registry.config_folders[plugin.name] = folders
    return replace(plugin, state="loaded", components=tuple(registry.components(plugin.name)))


def _wrong_api(plugin: Plugin, version: object) -> Plugin | None:
    """The row of a plugin that was made for another API; None where it fits or doesn't say."""
    if version is None or version == API_VERSION:
        return None
    newer = isinstance(version, int) and version > API_VERSION
    advice = "upgrade blockzoo" if newer else f"upgrade {plugin.installed.distribution}"
    error = f"written for plugin API {version!r}, this blockzoo has {API_VERSION}; {advice}"
    return replace(plugin, state="incompatible", error=error)


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


def _failed(plugin: Plugin, state: State, error: BaseException) -> Plugin:
    text = "".join(traceback.format_exception(error))
    return replace(plugin, state=state, error=one_line(error, plugin.installed.entry.module), traceback=text)
