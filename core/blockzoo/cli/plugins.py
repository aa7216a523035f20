"""``blockzoo plugins``: what is installed, what loaded, and why the rest didn't. ``list`` reads metadata only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from blockzoo.cli.output import print_json, table
from blockzoo.discovery import Plugin, discover
from blockzoo.errors import InputError, nearest
from blockzoo.selection import Selection

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Load the plugins and say what became of each. States: loaded, disabled, conflict, incompatible,"
    " import_failed, register_failed.",
)


@command.callback()
def loaded(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        from blockzoo.plugins import host

        _print(host().plugins, as_json)


@command.command("list", help="Read metadata only; import nothing.")
def listed(as_json: AsJson = False) -> None:
    _print(discover(Selection.from_environment()), as_json)


@command.command("show", help="One plugin: all that it registers, or where exactly it failed.")
def show(name: str, as_json: AsJson = False) -> None:
    from blockzoo.plugins import host

    found = [plugin for plugin in host().plugins if plugin.name == name]
    if not found:
        raise InputError(f"no plugin '{name}' is installed{nearest(name, {p.name for p in host().plugins})}")
    if as_json:
        print_json([plugin.as_dict() for plugin in found])
        return
    for plugin in found:
        for key, value in plugin.as_dict().items():
            if key != "components" and value is not None:
                print(f"{key}: {value}")
        for component in plugin.components:
            print(f"  {component.kind} {component.canonical}")
        if plugin.traceback:
            print(plugin.traceback)


def _print(plugins: Sequence[Plugin], as_json: bool) -> None:
    if as_json:
        print_json([plugin.as_dict() for plugin in plugins])
        return
    columns = ("name", "distribution", "version", "state", "components", "error")
    table("", columns, [_row(plugin) for plugin in plugins])


def _row(plugin: Plugin) -> tuple[object, ...]:
    counts = Counter(component.kind for component in plugin.components)
    components = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    installed = plugin.installed
    return plugin.name, installed.distribution, installed.version, plugin.state, components, plugin.error
