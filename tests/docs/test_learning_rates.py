"""docs/guide/learning-rates.md tells of the transfer of learning rates what learning-rates.json measured."""

from __future__ import annotations

import json
from math import log2
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
PAGE = (GUIDE / "learning-rates.md").read_text(encoding="utf-8")
ROWS = json.loads((GUIDE / "learning-rates.json").read_text(encoding="utf-8"))["shapes"]
(BASE,) = {json.dumps(row["points"]): row for row in ROWS if row["factor"] == 1}.values()
SHAPES = {(row["n_layers"], row["d_model"]) for row in ROWS if row["factor"] > 1}


def row_of(parametrization: str, shape: tuple[int, int]) -> dict[str, Any]:
    (row,) = (
        row for row in ROWS if row["parametrization"] == parametrization and (row["n_layers"], row["d_model"]) == shape
    )
    return row


def octaves(parametrization: str, shape: tuple[int, int], figure: str) -> float:
    """From the base's best rate or vertex to the shape's."""
    return log2(row_of(parametrization, shape)[figure] / BASE[figure])


def steps(parametrization: str, shape: tuple[int, int]) -> int:
    return round(2 * octaves(parametrization, shape, "best"))


def cells(parametrization: str, shape: tuple[int, int]) -> str:
    figures = {point["lr"]: point["bits_per_byte"] for point in row_of(parametrization, shape)["points"]}
    vertex, cost = octaves(parametrization, shape, "vertex"), figures[BASE["best"]] - min(figures.values())
    return f"{steps(parametrization, shape):+d} | {vertex:+.2f} | {cost:.3f}"


@pytest.mark.parametrize("shape", sorted(SHAPES), ids=str)
def test_the_table_has_the_measured_figures(shape: tuple[int, int]) -> None:
    layers, width = shape
    assert f"| {layers} x {width} | {cells('standard', shape)} | {cells('completep', shape)} |" in PAGE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['parametrization']}-{row['n_layers']}x{row['d_model']}")
def test_a_best_rate_is_the_least_and_an_inner_one_of_a_half_octave_grid(row: dict[str, Any]) -> None:
    rates = [point["lr"] for point in row["points"]]
    assert rates == pytest.approx([rates[0] * 2 ** (n / 2) for n in range(len(rates))])
    assert rates[0] < row["best"] < rates[-1]
    least = min(point["bits_per_byte"] for point in row["points"])
    assert dict(zip(rates, row["points"], strict=True))[row["best"]]["bits_per_byte"] <= least * 1.0001


def test_completep_stays_within_a_half_octave_where_standard_moves_further() -> None:
    assert all(abs(steps("completep", shape)) <= 1 for shape in SHAPES)
    assert [steps("standard", shape) for shape in ((2, 128), (8, 32), (8, 128))] == [-3, -2, -3]
