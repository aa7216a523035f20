"""``blockzoo diff A B``: what two models differ in, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from blockzoo.blocks import BlockConfig
from blockzoo.cli.inspect import report
from blockzoo.cli.output import console, gigabytes, print_json, table
from blockzoo.cli.reading import read_model
from blockzoo.config import dump_block
from blockzoo.differences import Change, differences
from blockzoo.plugins import host
from blockzoo.registry import Registry
from blockzoo.words import in_words, layers_in_words, value_in_words


def command(
    before: Annotated[str, typer.Argument(metavar="A", help="a shipped name, YAML file or checkpoint folder")],
    after: Annotated[str, typer.Argument(metavar="B", help="the model to compare it with")],
    context: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="tokens for FLOPs and cache; default: the shorter context")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Say what differs between two architectures. They are equal if they compute the same, however they are written."""
    registry = host().registry
    models = [read_model(name, registry, ()) for name in (before, after)]
    context = min(model.context_length for model in models) if context is None else context
    changes = differences(*models)
    reports = [report(model, context) for model in models]
    if as_json:
        print_json(
            {
                "equal": not changes,
                "context": context,
                "changes": [_data(change, registry) for change in changes],
                "numbers": reports,
            }
        )
        return
    out = console()
    if not changes:
        out.print(f"{before} and {after} are the same architecture")
    else:
        places = f"{len(changes)} option" + "s" * (len(changes) > 1)
        out.print(f"{before} and {after} differ in {places}\n")
        for line in lines(changes, models[1].n_layers, registry):
            out.print(line)
        out.print()
    _table(reports, context)


def lines(changes: Sequence[Change], n_layers: int, registry: Registry) -> list[str]:
    """One line a change, under its place."""
    found = []
    for place, group in groupby(changes, key=lambda change: change.place):
        found.append(place)
        for change in group:
            before, after = (_side(change, value, registry) for value in (change.before, change.after))
            where = f"   in {layers_in_words(change.layers, n_layers)}" if change.layers else ""
            found.append(f"  {change.option + ': ' if change.option else ''}{before} -> {after}{where}")
    return found


def _side(change: Change, value: Any, registry: Registry) -> str:
    return in_words(value, registry) if change.option == "" else value_in_words(value, registry)


def _data(change: Change, registry: Registry) -> dict[str, Any]:
    return {
        "place": change.place,
        "option": change.option or None,
        "before": _plain(change.before, registry),
        "after": _plain(change.after, registry),
        "layers": list(change.layers) or None,
    }


def _plain(value: Any, registry: Registry) -> Any:
    if isinstance(value, BlockConfig):
        return dump_block(value, registry)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _table(reports: Sequence[dict[str, Any]], context: int) -> None:
    a, b = reports
    rows: list[tuple[str, int, int, Any]] = [
        ("parameters" if key == "total" else f"  {key}", a["parameters"][key], value, "{:,}".format)
        for key, value in b["parameters"].items()
    ]
    rows += [(f"weights, {key}", a["weight_bytes"][key], value, gigabytes) for key, value in b["weight_bytes"].items()]
    rows.append((f"cache, {context:,} tokens, bfloat16", a["kv_cache_bytes"], b["kv_cache_bytes"], gigabytes))
    rows.append((f"FLOPs a token at {context:,}", a["flops_per_token"], b["flops_per_token"], "{:,}".format))
    table(
        "",
        ["", a["name"], b["name"], "ratio"],
        [[label, form(old), form(new), f"{new / old:.3f}" if old else ""] for label, old, new, form in rows],
        numbers=True,
    )
