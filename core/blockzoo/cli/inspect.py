"""``blockzoo inspect``: what models cost, exactly and without building them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockzoo.accounting import account
from blockzoo.cli.output import console, gigabytes, note, print_json, table
from blockzoo.cli.reading import read_model
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import BlockzooError, InputError
from blockzoo.plugins import host

LABEL, COLUMN = 24, 19
"""Characters of the first column and of each model's: as many models stand side by side as fit."""
LABELS = {"total": "parameters"}


def command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="shipped names, YAML files, checkpoint folders")
    ],
    context: Annotated[
        int | None,
        typer.Option(metavar="N", help="tokens looked back on by the decoded token; default: each model's own"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, dotted key")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Count parameters, bytes, cache and FLOPs of one model or several, side by side."""
    if context is not None and context < 1:
        raise InputError(f"--context {context}: must be at least 1")
    registry = host().registry
    reports, wrong = [], []
    for ref in models:
        try:
            reports.append(report(read_model(ref, registry, settings or ()), context))
        except BlockzooError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("\n".join(wrong))
    if as_json:
        print_json(reports)
        return
    grid = [_column(one) for one in reports]
    abreast = max(1, (console().width - LABEL) // COLUMN)
    for start in range(0, len(grid), abreast):
        part = grid[start : start + abreast]
        rows = [[label, *(one[label] for one in part)] for label in list(part[0])[1:]]
        table("", ["", *(one["model"] for one in part)], rows, numbers=True)
    note("Active parameters leave out the embedding lookup and count the unembedding. GB means 10^9 bytes.")


def report(config: ModelConfig, context: int | None) -> dict[str, Any]:
    """One object of ``--json``."""
    at = config.context_length if context is None else context
    costs = account(config, at)
    return {
        "name": config.name,
        "family": config.family,
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "context": at,
        "parameters": costs.parameters,
        "weight_bytes": costs.weight_bytes,
        "kv_cache_bytes": costs.kv_cache_bytes(),
        "flops_per_token": costs.flops_per_token,
    }


def _column(one: dict[str, Any]) -> dict[str, str]:
    """A model as a person reads it: label -> cell."""
    return {
        "model": one["name"],
        "layers": str(one["n_layers"]),
        "d_model": str(one["d_model"]),
        **{LABELS.get(group, group): f"{count:,}" for group, count in one["parameters"].items()},
        **{f"weights, {dtype.replace('_', ' ')}": gigabytes(n) for dtype, n in one["weight_bytes"].items()},
        "context": f"{one['context']:,}",
        "cache, bfloat16": gigabytes(one["kv_cache_bytes"]),
        "FLOPs a token": f"{one['flops_per_token']:.3g}",
    }
