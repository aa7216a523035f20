"""``blockzoo list``: what can be named in YAML and on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from blockzoo.blocks import KINDS
from blockzoo.cli import list_op
from blockzoo.cli.options import kinds_of, options, section_options
from blockzoo.cli.output import print_json, table
from blockzoo.config import shipped
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError, nearest
from blockzoo.experiments.shipped import description, shipped_experiments
from blockzoo.plugins import host
from blockzoo.registry import Registry

OTHERS = ("op", "kernel", "family", "config", "experiment")
SECTIONS = ("embedding", "head", "init")
"""Of a model, beside its blocks."""
PLURALS = {f"{kind}s": kind for kind in (*KINDS, *OTHERS)} | {"families": "family"}
SENTENCE_END = re.compile(r"(?<=[^.]\.)\s(?=[A-Z`])")


def command(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND|BLOCK|SECTION|OP",
            help="norm, mixer, ..., op, kernel, family, config or experiment; or a block, or embedding, head or init:"
            " its options; or an op: what it takes, its tolerances and kernels; default: all",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """List configs, experiments, blocks by kind, ops, kernels and families, with the plugin that brings each; or a
    block's options, those of the sections embedding, head and init, or an op's arguments, tolerances and kernels.
    """
    kinds = (*KINDS, *OTHERS)
    kind = PLURALS.get(kind or "", kind)
    registry = host().registry
    if kind is not None and kind not in kinds:
        _list_one(registry, kind, kinds, as_json)
        return
    found = {one: entries(registry, one) for one in kinds if kind in (None, one)}
    if as_json:
        print_json(found)
        return
    for one, rows in found.items():
        if rows:
            columns = [key for key in rows[0] if key != "path" or kind in ("config", "experiment")]
            table(one, columns, [[row[key] for key in columns] for row in rows])
            print()


def _list_one(registry: Registry, name: str, kinds: Sequence[str], as_json: bool) -> None:
    """What can be said of a block, a section and an op. Raises InputError where there is none of this name."""
    found = {kind: options(registry, kind, name) for kind in kinds_of(registry, name)}
    if name in SECTIONS:
        found["section"] = section_options(registry, name)
    op = list_op.op_named(registry, name)
    if not found and op is None:
        known = {*kinds, *SECTIONS, *(known for kind in (*KINDS, "op") for known in registry.names(kind))}
        raise InputError(f"no kind, block, section or op '{name}'{nearest(name, known)}")
    if as_json:
        print_json(found if op is None else {**found, "op": list_op.described(op, registry)})
        return
    for kind, rows in found.items():
        described = ModelConfig.model_fields[name].annotation if kind == "section" else registry.block(kind, name)
        print(f"{kind} {name}: {_first_sentence(described)}" + ("" if rows else " It has no options."))
        if rows:
            table("", list(rows[0]), [list(row.values()) for row in rows])
    if op is not None:
        list_op.show(op, registry)


def entries(registry: Registry, kind: str) -> list[dict[str, Any]]:
    """Everything of one kind: the name to write, the plugin, and a sentence about it."""
    if kind == "config":
        plugins = {folder: plugin for plugin, folders in registry.config_folders.items() for folder in folders}
        return [
            {"name": name, "plugin": next(plugins[p] for p in path.parents if p in plugins), "path": str(path)}
            for name, path in shipped(registry).items()
        ]
    if kind == "experiment":
        files = shipped_experiments().items()
        return [{"name": name, "about": description(file), "path": str(file)} for name, file in files]
    rows = []
    for name in registry.names(kind):
        thing = registry.get(kind, name)
        row: dict[str, Any] = {"name": name, "plugin": registry.canonical(kind, name).partition(":")[0]}
        if kind == "kernel":
            op, kernel = thing
            row |= {"op": op, "priority": kernel.priority, "backward": kernel.backward}
            row["layout"] = "canonical" if kernel.layout is None else kernel.layout.name
        elif kind == "op":
            row["about"] = _first_sentence(thing.reference)
        elif kind in KINDS:
            row["about"] = _first_sentence(thing)
        rows.append(row)
    return rows


def _first_sentence(thing: object) -> str:
    """Of a docstring, however many lines it takes."""
    paragraph = " ".join((getattr(thing, "__doc__", None) or "").strip().partition("\n\n")[0].split())
    return SENTENCE_END.split(paragraph, maxsplit=1)[0].replace("``", "")
