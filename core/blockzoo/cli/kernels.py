"""``blockzoo kernels MODEL``: layer x op -> kernel, by phase, and why the others lost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
import typer

from blockzoo.building import empty
from blockzoo.cli.output import print_json, table
from blockzoo.cli.reading import read_model
from blockzoo.errors import InputError, nearest
from blockzoo.kernels import Binding, bind
from blockzoo.linear import EXPERT_LINEAR, LINEAR, chosen_for_matrices, give_slots
from blockzoo.plugins import host
from blockzoo.step import PHASES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
WEIGHT_OPS = {LINEAR.name, EXPERT_LINEAR.name}
"""Ops of weights that are stored for a kernel or packed: those do not train."""


def command(
    model: Annotated[str, typer.Argument(help="shipped name, YAML file or checkpoint folder")],
    device: Annotated[str, typer.Option(help="the device to bind to: cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "float32",
    use: Annotated[list[str] | None, typer.Option(metavar="OP=KERNEL", help="ask for a kernel by name")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, dotted key")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Show which kernel would serve each op of a model. Allocates no weights."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: unknown{nearest(dtype, DTYPES)}")
    registry = host().registry
    config = read_model(model, registry, settings or ())
    decoder = empty(config, registry=registry, device="meta", dtype=DTYPES[dtype])
    chosen = _chosen(use or ())
    kernels = registry.kernels()
    give_slots(decoder, chosen_for_matrices(kernels, chosen))
    lines = bind(decoder, kernels, device=_device(device), choose=chosen)
    rows = collapse(line for line in lines if line.phase != "train" or line.op not in WEIGHT_OPS)
    if as_json:
        print_json(rows)
        return
    cells = [
        [row["place"], row["op"], *(row["kernels"].get(p, "") for p in PHASES), _reasons(row["lost"], row["kernels"])]
        for row in rows
    ]
    table(f"{config.name} on {device}, {dtype}", ("layers", "op", *PHASES, "why not the others"), cells)


def collapse(lines: Iterable[Binding]) -> list[dict[str, Any]]:
    """One row for each op and place, all phases in it; equal layers are one row."""
    places: dict[tuple[str, str], dict[str, Binding]] = {}
    for line in lines:
        places.setdefault((line.place, line.op), {})[line.phase] = line
    equal: dict[tuple[Any, ...], list[int]] = {}
    for (place, op), phases in places.items():
        head, _, rest = place.partition(".")
        number, _, inner = rest.partition(".")
        layer = int(number) if head == "layers" else None
        kernels = tuple((phase, line.kernel) for phase, line in phases.items())
        lost = tuple((phase, name, why) for phase, line in phases.items() for name, why in line.lost)
        key = (place if layer is None else inner, op, kernels, lost, layer is None)
        equal.setdefault(key, []).extend([] if layer is None else [layer])
    return [
        {
            "place": place if alone else f"layers.{ranges(layers)}.{place}",
            "layers": layers,
            "op": op,
            "kernels": dict(kernels),
            "lost": [{"phase": phase, "kernel": name, "reason": why} for phase, name, why in lost],
        }
        for (place, op, kernels, lost, alone), layers in equal.items()
    ]


def ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``0-2,5``; ``[0, 2, 4]`` -> ``0-4:2``, every second one."""
    steps = {after - before for before, after in pairwise(numbers)}
    if len(numbers) > 2 and len(steps) == 1 and steps != {1}:
        return f"{numbers[0]}-{numbers[-1]}:{steps.pop()}"
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _reasons(lost: Sequence[dict[str, str]], phases_shown: Collection[str]) -> str:
    phases: dict[tuple[str, str], list[str]] = {}
    for one in lost:
        phases.setdefault((one["kernel"], one["reason"]), []).append(one["phase"])
    return "; ".join(
        f"{kernel}: {why}" + ("" if len(where) == len(phases_shown) else f" ({', '.join(where)})")
        for (kernel, why), where in phases.items()
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: torch knows no such device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this machine has no GPU that torch can use")
    return device


def _chosen(choices: Sequence[str]) -> dict[str, str]:
    chosen = {}
    for choice in choices:
        op, equals, kernel = choice.partition("=")
        if not equals:
            raise InputError(f"--use {choice}: write OP=KERNEL")
        chosen[op] = kernel
    return chosen
