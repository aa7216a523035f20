"""``blockzoo coordinates``: whether a learning rate does the same at every width and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any, Literal

import typer

from blockzoo.cli.bar import counting_bar
from blockzoo.cli.output import note, print_json, table
from blockzoo.cli.reading import overrides_of
from blockzoo.errors import InputError
from blockzoo.experiments.coordinates import THRESHOLD, Report, Settings, check_coordinates
from blockzoo.plugins import host


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a shipped name or a YAML file")],
    parametrization: Annotated[
        Literal["standard", "completep"], typer.Option(help="how the optimizer goes with the shape")
    ] = "completep",
    widths: Annotated[str, typer.Option(metavar="LIST", help="factors of the least width")] = "1,2,4",
    depths: Annotated[str, typer.Option(metavar="LIST", help="factors of the least depth")] = "1,2,4",
    steps: Annotated[int, typer.Option(metavar="N", help="optimizer steps at each shape")] = 8,
    lr: Annotated[float, typer.Option(metavar="RATE", help="learning rate, constant")] = Settings.lr,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="each shape is trained with all of them")] = "0,1",
    base_width: Annotated[
        int | None, typer.Option(metavar="N", help="the least width; default: 64, or what the heads allow")
    ] = None,
    base_depth: Annotated[
        int | None, typer.Option(metavar="N", help="the least depth; default: 2, or what the pattern of layers allows")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, dotted key")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Train small versions of a model for a few steps and fit how activations move with width and depth."""
    asked = Settings(
        widths=_numbers("--widths", widths),
        depths=_numbers("--depths", depths),
        completep=parametrization == "completep",
        steps=steps,
        lr=lr,
        seeds=_numbers("--seeds", seeds),
        base_width=base_width,
        base_depth=base_depth,
    )
    bar = counting_bar()
    with bar:
        task = bar.add_task(f"{model}, {parametrization}", total=len(asked.widths) + len(asked.depths))
        report = check_coordinates(
            model,
            overrides_of(settings or ()),
            asked,
            registry=host().registry,
            watch=lambda point: bar.advance(task),
        )
    if as_json:
        print_json(_json(report, model, parametrization))
        return
    _show(report, model, parametrization)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """``1,2,4``. Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{option} {text}: expected whole numbers such as 1,2,4")
    return tuple(int(part) for part in parts)


def _show(report: Report, model: str, parametrization: str) -> None:
    settings = report.settings
    for axis, powers in report.exponents.items():
        points = [point for point in report.points if point.axis == axis]
        shapes = [f"{point.n_layers} x {point.d_model}" for point in points]
        rows = [
            [name, *(f"{point.changes[name][-1]:.3g}" for point in points), f"{power:+.2f}", _word(power)]
            for name, power in powers.items()
        ]
        title = f"{model}, {parametrization}: RMS change after {settings.steps} steps, by {axis}"
        table(title, ["layers x width", *shapes, "exponent", ""], rows, numbers=True)
        print()
    print(_verdict(report, parametrization))
    note(f"flat: change ~ {{width, depth}} ** exponent with the exponent within {THRESHOLD} of 0")


def _word(power: float) -> str:
    return "flat" if abs(power) <= THRESHOLD else "moves"


def _verdict(report: Report, parametrization: str) -> str:
    if report.flat:
        return f"flat: under {parametrization} one learning rate does the same at all of these shapes"
    moving = ", ".join(f"{name} with {axis} ({power:+.2f})" for axis, name, power in report.moving)
    advice = (
        "a learning rate tuned at one shape is not for another; try --parametrization completep"
        if parametrization == "standard"
        else "look at the roles of the parameters there, and at widths that don't grow with the model"
    )
    return f"moves: {moving}; {advice}"


def _json(report: Report, model: str, parametrization: str) -> dict[str, Any]:
    """One document: what isn't finite, after a divergence, is null."""
    return {
        "model": model,
        "parametrization": parametrization,
        "base": {"d_model": report.base[0], "n_layers": report.base[1]},
        "steps": report.settings.steps,
        "lr": report.settings.lr,
        "seeds": list(report.settings.seeds),
        "threshold": THRESHOLD,
        "verdict": "flat" if report.flat else "moves",
        "exponents": {axis: {n: _finite(p) for n, p in powers.items()} for axis, powers in report.exponents.items()},
        "shapes": [
            asdict(point) | {"changes": {name: _all_finite(values) for name, values in point.changes.items()}}
            for point in report.points
        ],
    }


def _all_finite(values: Sequence[float]) -> list[float | None]:
    return [_finite(value) for value in values]


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
