"""``blockzoo plugins doctor`` and ``show``: why a plugin isn't there, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import typer

from blockzoo.cli.output import print_json
from blockzoo.cli.reading import is_file
from blockzoo.deny import deny_file
from blockzoo.discovery import BROKEN, Plugin, discover
from blockzoo.errors import InputError, nearest
from blockzoo.plugins import host, load_plugins
from blockzoo.selection import DENY, Selection, check_file

SLOW = 1.0
"""Seconds of import that are worth a remark."""
CONTESTED = frozenset({"op", "family"})
"""Kinds whose names all plugins share."""


def rows_of(name_or_file: str) -> list[Plugin]:
    """The rows of one plugin, with only it and the built-in ones imported; and all of them where that could mislead.

    Raises InputError where none is called so, or there is no such file.
    """
    selection, name = Selection.from_environment(), name_or_file
    if is_file(name):
        selection, file = selection.with_files([name]), Path(name).expanduser().resolve()
        check_file(file)
        name = next(plugin.name for plugin in discover(selection) if plugin.installed.file == file)
    found = [plugin for plugin in discover(selection) if plugin.name == name]
    if not found:
        raise InputError(f"no plugin '{name}' is installed{nearest(name, {p.name for p in discover(selection)})}")
    if all(plugin.state != "found" for plugin in found):
        return found
    files = tuple(plugin.installed.file for plugin in found if plugin.installed.file is not None)
    only = frozenset(plugin.name for plugin in found if not plugin.builtin and plugin.installed.file is None)
    alone = load_plugins(selection=replace(selection, only=only, files=files))
    rows = [plugin for plugin in alone.plugins if plugin.name == name]
    if any(row.state == "loaded" and (row.error or _contested(row)) for row in rows):
        rows = [plugin for plugin in load_plugins(selection=selection).plugins if plugin.name == name]
    return rows


def _contested(row: Plugin) -> bool:
    """Whether another plugin may have taken one of its names before it."""
    return not row.builtin and any(component.kind in CONTESTED for component in row.components)


def examine(as_json: bool) -> None:
    """Print what is wrong with each plugin, and the fix; exit status 1 where one is broken."""
    plugins = host().plugins
    found = [(plugin, list(advice(plugin))) for plugin in plugins]
    broken = [plugin.name for plugin in plugins if plugin.state in BROKEN]
    if as_json:
        rows = [plugin.as_dict() | {"seconds": round(plugin.seconds, 3), "advice": said} for plugin, said in found]
        print_json({"ok": not broken, "plugins": rows})
    else:
        for plugin, said in found:
            if said:
                print(f"{plugin.name} ({plugin.installed.distribution}): {plugin.state}")
                print("".join(f"  {line}\n" for line in ([plugin.error] if plugin.error else []) + said), end="")
        loaded = sum(plugin.state == "loaded" for plugin in plugins)
        print(f"{len(plugins)} plugins: {loaded} loaded, {len(broken)} broken")
    if broken:
        raise typer.Exit(1)


def advice(plugin: Plugin) -> Iterator[str]:
    """What to do about one plugin; nothing where all is well."""
    name, distribution = plugin.name, plugin.installed.distribution
    remove = f"take {distribution} away" if plugin.installed.file else f"pip uninstall {distribution}"
    error = plugin.error or ""
    match plugin.state:
        case "disabled" if error.endswith(str(deny_file())):
            yield f"to have it again: blockzoo plugins enable {name}"
        case "disabled" if DENY in error:
            yield f"to have it again: take it out of {DENY}"
        case "disabled":
            yield "to have it: leave away --no-plugins and --plugins, or name it in --plugins or BLOCKZOO_PLUGINS"
        case "conflict":
            yield f"to be rid of it: {remove}; its author must choose another name"
        case "incompatible" if "letters, digits" in error or "can't be read" in error:
            yield f"only its author can mend this; to be rid of it: {remove}"
        case "incompatible" if plugin.installed.file:
            yield f"upgrade blockzoo, or bring the file up to this one; {remove} to be rid of it"
        case "incompatible":
            yield f"install versions that go together: pip install --upgrade {distribution} blockzoo"
        case "import_failed" if "No module named" in error:
            yield f"a module is missing: pip install --force-reinstall {distribution} brings what it declares"
        case "loaded" if error:
            yield "it works otherwise; tell its author"
    if plugin.state in ("import_failed", "register_failed"):
        yield f"to see where: blockzoo plugins show {name}"
        yield f"to silence it until it is mended: blockzoo plugins disable {name}"
    if not plugin.builtin and plugin.seconds > SLOW:
        yield f"importing it takes {plugin.seconds:.1f} s, on every verb that loads plugins"
