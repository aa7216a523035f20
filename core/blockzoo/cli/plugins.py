"""``blockzoo plugins``: what is installed, what loaded, and why the rest didn't.

``list``, ``disable`` and ``enable`` read metadata only; the verbs that do more import what they need when they are run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from blockzoo.cli.output import note, print_json, table
from blockzoo.deny import allow, deny, deny_file
from blockzoo.discovery import Plugin, discover
from blockzoo.errors import InputError, nearest
from blockzoo.selection import DENY, Selection

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]
NameOrFile = Annotated[str, typer.Argument(metavar="NAME", help="a plugin, or a Python file such as ./my_block.py")]

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
def show(name: NameOrFile, as_json: AsJson = False) -> None:
    from blockzoo.cli.plugins_doctor import rows_of

    found = rows_of(name)
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


@command.command("disable", help="Never load a plugin, from now on and whatever else selects it.")
def disable(
    name: str, force: Annotated[bool, typer.Option("--force", help="one that is built in too")] = False
) -> None:
    installed = {plugin.name: plugin for plugin in discover(Selection.from_environment())}
    if name not in installed:
        raise InputError(f"no plugin '{name}' is installed{nearest(name, installed)}")
    lost = "models that use what it has won't load"
    if installed[name].builtin and not force:
        raise InputError(f"{name} is built in: {lost} without it; --force disables it all the same")
    file = deny_file()
    note(f"{name} is disabled in {file}" if deny(name, file) else f"{name} was disabled in {file} already")
    if installed[name].builtin:
        note(f"{name} is built in: {lost} until 'blockzoo plugins enable {name}'")


@command.command("enable", help="Take a plugin off the list of those that never load.")
def enable(name: str) -> None:
    file = deny_file()
    was_denied = allow(name, file)
    selection = Selection.from_environment()
    installed = {plugin.name for plugin in discover(selection)}
    if not was_denied and name not in selection.deny and name not in installed:
        raise InputError(f"no plugin '{name}' is installed, and {file} doesn't name it{nearest(name, installed)}")
    note(f"{name} is enabled again" if was_denied else f"{file} doesn't disable {name}")
    if name in selection.deny:
        note(f"{DENY} denies it still: unset it")
    elif name not in installed:
        note("it isn't installed")


@command.command("doctor", help="Why a plugin didn't load, and what to do. Exit status 1 where one is broken.")
def doctor(as_json: AsJson = False) -> None:
    from blockzoo.cli.plugins_doctor import examine

    examine(as_json)


@command.command("new", help="Write a package with a working block, its test, README and CI: a start for your own.")
def new(
    name: Annotated[str, typer.Argument(help="the plugin's name: lower-case letters, digits, underscores")],
    kind: Annotated[
        str,
        typer.Option(
            help="what it brings: norm, residual, mixer, recurrence, ffn, position, quantizer, kernel or family"
        ),
    ] = "norm",
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", metavar="DIR", help="the folder to make; default: ./blockzoo-NAME"),
    ] = None,
    op: Annotated[
        str | None, typer.Option(metavar="OP", help="with --kind kernel: the op that it computes; default: attention")
    ] = None,
) -> None:
    from blockzoo.cli.plugins_new import create

    create(name, kind, output, op)


@command.command("check", help="Run the conformance suite on a plugin. Exit status 1 where a check fails.")
def check(
    context: typer.Context,
    name: NameOrFile,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="one component (mixer/mla, or mla alone), or one check")
    ] = None,
    as_json: AsJson = False,
) -> None:
    from blockzoo.cli.plugins_check import run

    run(name, only, as_json, tracebacks=context.find_root().params["traceback"])


@command.command(
    "record",
    help="Print what transformers computes from each sample of a family, to record, and how far blockzoo is off.",
)
def record(
    name: NameOrFile,
    model_type: Annotated[
        str | None, typer.Option("--as", metavar="MODEL_TYPE", help="a model_type that transformers knows it by")
    ] = None,
    as_json: AsJson = False,
) -> None:
    from blockzoo.cli.plugins_record import run

    run(name, model_type, as_json)


@command.command("try", help="Each block in each slot it fits of three small models, beside the stock block.")
def try_out(
    name: NameOrFile,
    steps: Annotated[int, typer.Option(min=1, help="training steps of each combination")] = 60,
    as_json: AsJson = False,
) -> None:
    from blockzoo.cli.plugins_try import run

    run(name, steps, as_json)


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
