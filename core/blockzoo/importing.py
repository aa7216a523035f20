"""Importing one plugin: an entry point, a package of ours, or a file; and saying in one line what it raised."""

from __future__ import annotations

import ast
import sys
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from blockzoo.discovery import Installed
from blockzoo.errors import PluginError
from blockzoo.shipped import PACKAGE


def import_plugin(installed: Installed) -> object:
    """The module or object that holds its hooks. Raises whatever the import raises."""
    if installed.file is not None:
        return _import_file(installed.entry.module, installed.file)
    if installed.builtin:
        _import_own(installed.entry.module.partition(".")[0])
    return installed.entry.load()


def declared_api(installed: Installed) -> object:
    """The ``BLOCKZOO_API`` that the plugin's source says, read without running it; None where none can be read.

    A plugin made for another major may well fail to import: what it was made for must be known before that.
    """
    try:
        source = installed.file or _source_of(installed.entry.module)
        tree = ast.parse(source.read_bytes()) if source else None
    except (OSError, SyntaxError, ValueError, ImportError):
        return None  # the import will tell better
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["BLOCKZOO_API"]:
            return node.value.value if isinstance(node.value, ast.Constant) else None
    return None


def _source_of(module: str) -> Path | None:
    """The file of a module; finding a top-level package runs nothing, and what is inside it is found by path."""
    top, *inner = module.split(".")
    spec = PathFinder.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not inner:
        return Path(spec.origin)
    base = Path(spec.origin).parent.joinpath(*inner)
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def forget_module(installed: Installed) -> None:
    """The next import of a plugin of one file runs it again."""
    assert installed.file is not None
    sys.modules.pop(installed.entry.module, None)


def _import_file(name: str, file: Path) -> object:
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, file)
    assert spec is not None, file
    return _execute(name, spec)


def _import_own(package: str) -> None:
    """Import a package of ours from beside core, whatever stands earlier on sys.path under its name."""
    if package in sys.modules:
        return
    spec = PathFinder.find_spec(package, [str(PACKAGE.parent), str(PACKAGE.parent.parent / "plugins")])
    if spec is not None and spec.loader is not None:
        _execute(package, spec)


def _execute(name: str, spec: ModuleSpec) -> object:
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


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
