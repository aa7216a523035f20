"""``blockzoo solve``: turn a model's knobs until it costs as much as another, or as much as was said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from blockzoo.cli.output import note, print_json, table
from blockzoo.cli.reading import overrides_of, read_model
from blockzoo.config import dump, dump_yaml
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError, nearest
from blockzoo.experiments.axes import AXES, number, numbers, shape_of
from blockzoo.experiments.config import Axis
from blockzoo.experiments.knobs import NAMES, Source, make_knob, parse_knob
from blockzoo.experiments.solve import Solved, solve
from blockzoo.plugins import host
from blockzoo.registry import Registry

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
SHOWN = 60
"""Characters of the model's name in a heading."""


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a shipped name, a YAML file or a checkpoint folder")],
    axis: Annotated[str, typer.Option(metavar="AXIS", help=f"what to match: {', '.join(AXES)}")] = "non_embedding",
    target: Annotated[str | None, typer.Option(metavar="N", help="the number to reach, such as 124M or 1.5e9")] = None,
    like: Annotated[str | None, typer.Option(metavar="MODEL", help="the model whose number to reach")] = None,
    knobs: Annotated[
        list[str] | None,
        typer.Option(
            "--knob",
            metavar="KNOB[:MULTIPLE]",
            help=f"what may be turned, coarse ones first: {', '.join(NAMES)}, or a dotted key; default: d_ff",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="FRACTION", help="how far off the result may be")] = 0.01,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="tokens of FLOPs and KV bytes; default: what both models hold")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(metavar="N", help="trained on, for training_flops, in sequences of the context")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override by dotted key, before solving")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", "--out", metavar="FILE", help="write the solved model as YAML")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Hold one axis of the account at a number by turning knobs; say what that did to every other axis."""
    registry = host().registry
    wanted = _axis(axis)
    if not tolerance > 0:
        raise InputError(f"--tolerance {tolerance}: must be more than 0, such as 0.01 for one percent")
    for name, value in (("--context", context), ("--tokens", tokens)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: must be at least 1")
    if (target is None) == (like is None):
        raise InputError("give either --target NUMBER or --like MODEL: what the model should cost")
    if wanted == "training_flops" and target is not None and tokens is None:
        raise InputError("--axis training_flops --target: say of how many tokens, with --tokens")
    if output is not None and not output.absolute().parent.is_dir():
        raise InputError(f"{output}: there is no folder {output.parent}")
    turning = [make_knob(parse_knob(text)) for text in knobs or ["d_ff"]]
    source = _source(model, settings or (), registry)
    before = source.load({})
    other = None if like is None else read_model(like, registry)
    at = context or min(m.context_length for m in (before, other) if m is not None)
    asked = {"context": at, "block": at, "tokens": at if tokens is None else tokens}
    goal = number(other, wanted, **asked) if other is not None else _number(target)
    if not goal:
        raise InputError(f"{like} has no {wanted} at all; there is nothing to match")
    solved = solve(
        source, turning, lambda config: number(config, wanted, **asked), goal, tolerance=tolerance, axis=wanted
    )
    if output is not None:
        output.write_text(_header(model, solved, wanted) + dump_yaml(solved.config, registry), encoding="utf-8")
    if as_json:
        print_json(report(before, solved, other, wanted, asked, registry))
    else:
        show(before, solved, other, wanted, asked)
    if output is not None:
        note(f"wrote {output}")


def report(
    before: ModelConfig,
    solved: Solved,
    other: ModelConfig | None,
    axis: Axis,
    asked: dict[str, int],
    registry: Registry,
) -> dict[str, Any]:
    """The document of ``--json``."""
    sides = {"before": before, "after": solved.config, **({} if other is None else {"like": other})}
    return {
        "axis": axis,
        "target": solved.target,
        "reached": solved.number,
        "residual": solved.residual,
        "turned": solved.turned,
        "context": asked["context"],
        **{name: {"name": m.name, **shape_of(m), **numbers(m, **asked)} for name, m in sides.items()},
        "config": dump(solved.config, registry),
    }


def show(before: ModelConfig, solved: Solved, other: ModelConfig | None, axis: Axis, asked: dict[str, int]) -> None:
    """What was turned, and every axis before and after."""
    sides = [before, solved.config, *([] if other is None else [other])]
    shapes, costs = [shape_of(m) for m in sides], [numbers(m, **asked) for m in sides]
    head = [before.name, "solved", "change", *([] if other is None else [other.name, "solved / it"])]
    rows: list[list[str]] = []
    for label in shapes[0]:
        cells = ["" if shape[label] is None else f"{shape[label]:,}" for shape in shapes]
        rows.append([label, cells[0], cells[1], "", *([] if other is None else [cells[2], ""])])
    for name in AXES:
        values = [cost[name] for cost in costs]
        last = [] if other is None else [f"{values[2]:,}", _ratio(values[1], values[2])]
        label = f"{name} *" if name == axis else name
        rows.append([label, f"{values[0]:,}", f"{values[1]:,}", _ratio(values[1], values[0]), *last])
    table("", ["", *(name[:SHOWN] for name in head)], rows, numbers=True)
    turned = ", ".join(f"{name} {value:g}" for name, value in solved.turned.items())
    note(f"* {axis}: {solved.number:,} for {solved.target:,.0f}, off by {solved.residual:+.3%}, with {turned}")
    note(
        f"FLOPs of one token and KV bytes at {asked['context']:,} tokens; training FLOPs of {asked['tokens']:,} tokens."
    )


def _source(model: str, settings: list[str] | tuple[str, ...], registry: Registry) -> Source:
    overrides = overrides_of(settings)
    if Path(model).is_dir():
        return Source(dump(read_model(model, registry), registry), overrides, registry)
    return Source(model, overrides, registry)


def _axis(text: str) -> Axis:
    for axis in AXES:
        if axis == text:
            return axis
    raise InputError(f"--axis {text}: no such axis{nearest(text, AXES)}")


def _number(text: str | None) -> float:
    """``124M`` -> 124000000."""
    found = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:e[0-9]+)?)([kMGBT]?)", (text or "").strip())
    value = float(found[1].replace("_", "").replace(",", "")) * SUFFIXES[found[2]] if found else 0.0
    if not 0 < value < 1e30:
        raise InputError(f"--target {text}: write a number above 0, such as 1.5e9, 124M or 1,000,000")
    return value


def _ratio(mine: int, theirs: int) -> str:
    return f"{mine / theirs - 1:+.2%}" if theirs else ""


def _header(model: str, solved: Solved, axis: Axis) -> str:
    turned = ", ".join(f"{name} {value:g}" for name, value in solved.turned.items())
    return f"# {model}, solved by blockzoo: {axis} {solved.number:,} for {solved.target:,.0f}, with {turned}\n"
