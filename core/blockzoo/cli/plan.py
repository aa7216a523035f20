"""``blockzoo plan``: what memory a model needs, whether it fits, and what would make it fit; nothing is built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from blockzoo.cli.output import console, gigabytes, note, print_json, table
from blockzoo.cli.quantizing import HELP, quantizers_of
from blockzoo.cli.reading import read_model
from blockzoo.errors import InputError, nearest
from blockzoo.memory import total_memory
from blockzoo.memory_plan import (
    Change,
    Device,
    Share,
    Use,
    changes,
    largest_context,
    quantized,
    split,
)
from blockzoo.plugins import host

DTYPES = ("bfloat16", "float16", "float32")
UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}
HOSTS = ("cpu", "host", "memory")
MOST_DEVICES = 1024
ABREAST = 8
"""Devices side by side; more are below each other."""


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a shipped name, a YAML file or a checkpoint folder")],
    memory: Annotated[
        str | None, typer.Option(metavar="BYTES", help="what there is: 16GB, 12.5GiB; default: this machine's")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BYTES", help="a device to split layers over, in their order; cpu is the host"),
    ] = None,
    devices: Annotated[str | None, typer.Option(metavar="NxBYTES", help="equal devices, such as 2x80GB")] = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="tokens in the cache, prompt and answer; default: the model's own")
    ] = None,
    batch: Annotated[int, typer.Option(metavar="B", help="rows at a time")] = 1,
    prompt: Annotated[int, typer.Option(metavar="T", help="tokens that go through the model at once")] = 512,
    dtype: Annotated[str, typer.Option(help=f"of floats and cache: {', '.join(DTYPES)}")] = "bfloat16",
    quantize: Annotated[
        list[str] | None,
        typer.Option(metavar="PART=QUANTIZER", help=HELP),
    ] = None,
    map_embedding: Annotated[
        bool, typer.Option("--map-embedding", help="look embedding rows up in a mapped file")
    ] = False,
    mapped: Annotated[
        bool,
        typer.Option("--mapped", help="a native checkpoint is mapped: nothing is copied, only rows of embedding used"),
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, dotted key")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Say what memory a model needs, where it goes, whether it fits, and what would make it fit."""
    import torch

    from blockzoo.checkpoints.whole_reads import whole_read

    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}{nearest(dtype, DTYPES)}")
    registry = host().registry
    places = _devices(memory, device or [], devices)
    stored = read_model(model, registry, settings or ())
    asked = quantized(stored, quantizers_of(model, quantize or [], registry, settings or []))
    use = Use(
        asked,
        context=asked.context_length if context is None else context,
        batch=batch,
        prompt=prompt,
        dtype=getattr(torch, dtype),
        map_embedding=map_embedding or (mapped and not asked.embedding.tied),
        kernels=registry.kernels() if all(place.host for place in places) else {},
    )
    if not mapped:
        use = replace(use, read_whole=whole_read(stored, asked, use.dtype, registry=registry))
    shares = split(use, places)
    longest = largest_context(use, places)
    fits = all(share.free >= 0 for share in shares)
    found = [] if fits else changes(use, places, registry.get("quantizer", "int8")())
    if as_json:
        print_json(_report(use, shares, longest, found))
    else:
        _print(use, shares, longest, found)


# --- what is asked ----------------------------------------------------------------------------------------------------


def _devices(memory: str | None, named: Sequence[str], equal: str | None) -> list[Device]:
    if sum((memory is not None, bool(named), equal is not None)) > 1:
        raise InputError("--memory, --device and --devices say the same thing: give one of them")
    if equal is not None:
        count, cross, size = equal.partition("x")
        if not cross or not count.isdecimal() or not 1 <= int(count) <= MOST_DEVICES:
            raise InputError(f"--devices {equal}: expected a number of devices and the memory of one, such as 2x80GB")
        return [Device(f"gpu{index}", _bytes("--devices", size), host=False) for index in range(int(count))]
    if not named:
        there = _bytes("--memory", memory) if memory is not None else _machine()
        return [Device("memory", there)]
    found: dict[str, Device] = {}
    for text in named:
        name, equals, size = text.partition("=")
        if not equals or not name:
            raise InputError(f"--device {text}: expected NAME=BYTES, such as gpu0=80GB")
        if name in found:
            raise InputError(f"--device {text}: there is a device '{name}' already; give each a name of its own")
        found[name] = Device(name, _bytes("--device", size), host=name in HOSTS)
    return list(found.values())


def _bytes(option: str, text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([A-Za-z]*)\s*", text)
    units = {unit.lower(): size for unit, size in UNITS.items()}
    if match is None or match[2].lower() not in units or not 1 <= float(match[1]) * units[match[2].lower()] < 2**63:
        raise InputError(f"{option} {text}: expected bytes, such as 16GB (10^9), 16GiB (2^30) or 16e9")
    return int(float(match[1]) * units[match[2].lower()])


def _machine() -> int:
    if not (there := total_memory()):
        raise InputError("this system does not say how much memory it has: give --memory, such as 16GB")
    return there


# --- what is said -----------------------------------------------------------------------------------------------------


def _report(use: Use, shares: Sequence[Share], longest: int, found: Sequence[Change]) -> dict[str, Any]:
    return {
        "name": use.config.name,
        "context": use.context,
        "batch": use.batch,
        "prompt": use.prompt,
        "dtype": str(use.dtype).removeprefix("torch."),
        "map_embedding": use.map_embedding,
        "fits": all(share.free >= 0 for share in shares),
        "largest_context": longest,
        "total": sum(share.total for share in shares),
        "devices": [
            {
                "name": share.device.name,
                "memory": share.device.memory,
                "parts": list(share.parts),
                "weights": dict(share.weights),
                "cache": share.cache,
                "activations": share.activations,
                "loading": share.loading,
                "runtime": share.device.runtime,
                "total": share.total,
                "free": share.free,
            }
            for share in shares
        ],
        "changes": [
            {"change": one.words, "fits": one.fits, "total": sum(share.total for share in one.shares)} for one in found
        ],
    }


def _print(use: Use, shares: Sequence[Share], longest: int, found: Sequence[Change]) -> None:
    storages = list(dict.fromkeys(storage for share in shares for storage in share.weights))
    rows: list[list[str]] = [["holds", *(_span(share.parts) for share in shares)]] if len(shares) > 1 else []
    rows += [
        [f"weights, {storage}", *(gigabytes(share.weights.get(storage, 0)) for share in shares)] for storage in storages
    ]
    rows.append(["cache", *(gigabytes(share.cache) for share in shares)])
    rows.append(["activations", *(gigabytes(share.activations) for share in shares)])
    rows.append(["(loading, before both)", *(f"({gigabytes(share.loading)})" for share in shares)])
    rows.append(["runtime", *(gigabytes(share.device.runtime) for share in shares)])
    rows.append(["sum at the peak", *(gigabytes(share.total) for share in shares)])
    rows.append(["there is", *(gigabytes(share.device.memory) for share in shares)])
    dtype = str(use.dtype).removeprefix("torch.")
    title = f"{use.config.name}: context {use.context:,}, batch {use.batch}, {dtype}"
    console().print(title, style="bold", soft_wrap=True)
    columns = ["", *(share.device.name for share in shares)]
    if len(shares) > ABREAST:  # a row a device
        columns, *rows = (list(row) for row in zip(columns, *rows, strict=True))
    table("", columns, rows, numbers=True)
    for line in _verdict(use, shares, longest, found):
        console().print(line, soft_wrap=True)
    if len(shares) > 1:
        note("Layers over several devices are a plan on paper: blockzoo runs a model on one.")


def _verdict(use: Use, shares: Sequence[Share], longest: int, found: Sequence[Change]) -> list[str]:
    least = min(shares, key=lambda share: share.free)
    where = f" on {least.device.name}" if len(shares) > 1 else ""
    if least.free >= 0:
        most = " (all that the model has)" if longest == use.config.context_length else ""
        return [f"fits, {gigabytes(least.free)} left{where}; the longest context that fits is {longest:,}{most}"]
    context = f"the longest context that fits is {longest:,}" if longest else "no context is short enough"
    lines = [f"does not fit: {gigabytes(-least.free)} too little{where}; {context}"]
    helping = [f"{one.words} ({gigabytes(sum(share.total for share in one.shares))})" for one in found if one.fits]
    lines.append(f"would fit with {', or with '.join(helping)}" if helping else "no change of storage makes it fit")
    return lines


def _span(parts: Sequence[str]) -> str:
    """``embedding, 0-11``."""
    layers = [part.removeprefix("layers.") for part in parts if part.startswith("layers.")]
    span = [layers[0] if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"] if layers else []
    ends = [part for part in parts if not part.startswith("layers.")]
    return ", ".join([*(e for e in ends if e == "embedding"), *span, *(e for e in ends if e == "head")]) or "nothing"
