"""Which learning rate is best at which shape, with the standard parametrization and with CompleteP.

    python tests/benchmarks/transfer.py [--out runs/transfer] [--workers 2] [--seeds 0 1]
    python tests/benchmarks/transfer.py --plot docs/guide/learning-rates.json docs/guide/learning-rates.svg

Small models on bytes of the Python standard library, over 4 times the width, 4 times the depth, and both. At each
shape the search of ``blockzoo compare`` runs over a grid of half octaves (factors of sqrt 2) until the best rate is an
inner one. What is done is kept: the same command goes on where it was stopped. All points are written to
``OUT/transfer.json``, which the plot of docs/guide/learning-rates.md is drawn from. Aim: with CompleteP no best rate is
more than one grid step from the base's, where with the standard parametrization it moves. Near its best a curve is
flat and noise decides between neighbours, so the vertex of a parabola fitted within an octave of the best point is
told, too, seed by seed, and so is what training at the base's best rate costs.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import log2
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

WIDTH, DEPTH, HEAD = 32, 2, 16
AXES = {"width": (1, 2, 4), "depth": (1, 2, 4), "both": (1, 4)}
STEP = 0.5
"""Octaves from a rate to the next."""
GRID = tuple(2.0 ** (STEP * n) for n in range(-18, -9))
EXTEND = 6
RECIPE = {
    "steps": 300,
    "batch_size": 8,
    "block": 64,
    "schedule": {"warmup": 20},
    "eval": {"tokens": 32768},
    "log_every": 100,
    "checkpoint_every": 10**6,
}
DATA = {"max_bytes": 4_000_000}
COLOURS = {1: "#9ecae1", 2: "#4292c6", 4: "#08306b"}


@dataclass(frozen=True)
class Shape:
    """One model under one parametrization. The base is one model for both and both axes."""

    parametrization: str
    axis: str
    factor: int

    @property
    def d_model(self) -> int:
        return WIDTH * (1 if self.axis == "depth" else self.factor)

    @property
    def n_layers(self) -> int:
        return DEPTH * (1 if self.axis == "width" else self.factor)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for shapes that train the same model the same way."""
        return ("base",) if self.factor == 1 else (self.parametrization, self.d_model, self.n_layers)

    def model(self) -> dict[str, Any]:
        return {
            "name": f"{self.parametrization}-{self.n_layers}x{self.d_model}",
            "vocab_size": 256,
            "tokenizer": "bytes",
            "context_length": 64,
            "d_model": self.d_model,
            "init": {"std": 0.08},
            "norm": "rms_norm",
            "position": "rope",
            "layers": {
                "count": self.n_layers,
                "mixer": {"type": "gqa", "n_heads": self.d_model // HEAD},
                "ffn": {"type": "mlp", "d_ff": 4 * self.d_model},
            },
        }


SHAPES = tuple(
    Shape(parametrization, axis, factor)
    for parametrization in ("standard", "completep")
    for axis, factors in AXES.items()
    for factor in factors
)


@dataclass
class Found:
    """What was tried at a shape: rate -> figure by seed, None where it diverged."""

    shape: Shape
    tried: dict[float, list[float | None]] = field(default_factory=dict)
    answer: Any = None

    @property
    def means(self) -> dict[float, float | None]:
        """Rate -> mean over the seeds; one that diverged makes the rate so."""
        return {
            lr: None if None in figures else fmean(f for f in figures if f is not None)
            for lr, figures in self.tried.items()
        }


def train(job: tuple[Shape, float, int, Path]) -> float | None:
    """Bits per byte at the end of one run, None where it diverged."""
    import torch

    from blockzoo.config import load_config
    from blockzoo.errors import RunError
    from blockzoo.plugins import host
    from blockzoo.tokenizers import load_tokenizer
    from blockzoo.training.config import TrainConfig
    from blockzoo.training.data import prepare
    from blockzoo.training.data_config import DataConfig
    from blockzoo.training.interrupt import Interrupted
    from blockzoo.training.run import Run

    torch.set_num_threads(1)
    shape, lr, seed, out = job
    registry = host().registry
    base = {"type": "completep", "d_model": WIDTH, "n_layers": DEPTH}
    recipe = {
        **RECIPE,
        "optimizer": {"lr": lr},
        "seeds": {"init": seed, "data": seed, "dropout": seed},
        "parametrization": base if shape.parametrization == "completep" and shape.factor > 1 else None,
    }
    tokenizer = load_tokenizer("bytes", registry=registry)
    data = prepare(DataConfig.model_validate(DATA), tokenizer, "bytes", out / "data")
    model = load_config(shape.model(), registry=registry)
    run = Run(model, TrainConfig.model_validate(recipe), data, out, registry, "bytes")
    if run.folder.status()["state"] == "failed":
        return None
    try:
        result = run.execute().result()
    except Interrupted:
        raise
    except RunError:
        return None
    assert result is not None
    return result["bits_per_byte"]


def sweep(out: Path, workers: int, seeds: Sequence[int]) -> list[Found]:
    """Search at every shape at once: each round trains what all searches ask for, the longest runs first."""
    from blockzoo.experiments.rates import Search, Try

    search = Search(GRID, EXTEND)
    found = {shape.key: Found(shape) for shape in SHAPES}
    train((SHAPES[0], GRID[0], seeds[0], out))  # makes the tokens, once
    begin = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        while jobs := [
            (one.shape, lr, seed, out)
            for one in found.values()
            if isinstance(answer := search.next(one.means), Try)
            for lr in missing(one.tried, answer.points)
            for seed in seeds
        ]:
            jobs.sort(key=lambda job: job[0].d_model ** 2 * job[0].n_layers, reverse=True)
            for job, figure in zip(jobs, pool.imap(train, jobs), strict=True):
                shape, lr, seed, _ = job
                found[shape.key].tried.setdefault(lr, []).append(figure)
                said = "diverged" if figure is None else f"{figure:.4f}"
                print(f"{time.perf_counter() - begin:6.0f} s  {shape.model()['name']} lr {lr:.5f} seed {seed}: {said}")
    for one in found.values():
        one.answer = search.next(one.means)
    return [Found(shape, found[shape.key].tried, found[shape.key].answer) for shape in SHAPES]


def missing(tried: Collection[float], wanted: Collection[float]) -> list[float]:
    """The rates a step apart that lie within all of these and aren't tried: ``Search`` grows by whole octaves."""
    both = [*tried, *wanted]
    low, high = (round(log2(rate) / STEP) for rate in (min(both), max(both)))
    return [rate for n in range(low, high + 1) if (rate := 2.0 ** (STEP * n)) not in tried]


def document(found: Sequence[Found], seeds: Sequence[int]) -> dict[str, Any]:
    """What is written, and drawn: a row a shape, with every point and the best rate, null where there is none."""
    from blockzoo.experiments.rates import Chosen

    rows = []
    for one in found:
        shape = one.shape
        best = one.answer.lr if isinstance(one.answer, Chosen) else None
        rows.append(
            {
                "parametrization": shape.parametrization,
                "axis": shape.axis,
                "factor": shape.factor,
                "d_model": shape.d_model,
                "n_layers": shape.n_layers,
                "best": best,
                "vertex": vertex(one.means),
                "vertex_by_seed": [vertex({lr: f[n] for lr, f in one.tried.items()}) for n in range(len(seeds))],
                "why_none": None if best is not None else one.answer.reason,
                "points": [
                    {"lr": lr, "bits_per_byte": one.means[lr], "by_seed": figures}
                    for lr, figures in sorted(one.tried.items())
                ],
            }
        )
    return {
        "recipe": RECIPE,
        "data": DATA,
        "base": {"d_model": WIDTH, "n_layers": DEPTH},
        "seeds": list(seeds),
        "shapes": rows,
    }


def vertex(figures: Mapping[float, float | None]) -> float | None:
    """The rate at the least of the parabola, over log2 of the rate, fitted to the points within an octave of the best.

    None where they don't rise on both sides.
    """
    trained = {log2(rate): figure for rate, figure in figures.items() if figure is not None}
    if not trained:
        return None
    best = min(trained, key=trained.__getitem__)
    near = [power for power in trained if abs(power - best) < 1 + STEP / 2]
    if best in (min(near), max(near)):
        return None
    square, slope, _ = np.polyfit([power - best for power in near], [trained[power] for power in near], 2)
    return float(2 ** (best - slope / (2 * square))) if square > 0 else None


def moves(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a shape: how far its best rate is from the base's."""
    for (parametrization, axis), group in groupby(rows, key=lambda row: (row["parametrization"], row["axis"])):
        base, *others = group
        for row in others:
            yield f"{parametrization:10} {row['factor']}x {axis:5}: {'; '.join(moved(base, row))}"


def moved(base: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    """Grid steps from the base's best rate, bits per byte it costs over the least here, octaves from its vertices."""
    if base["best"] is None or row["best"] is None:
        yield "no optimum"
        return
    figures = {point["lr"]: point["bits_per_byte"] for point in row["points"]}
    there = figures[base["best"]]
    least = min(figure for figure in figures.values() if figure is not None)
    yield f"{log2(row['best'] / base['best']) / STEP:+.0f} grid steps"
    yield "the base's rate " + ("diverges" if there is None else f"costs {there - least:.3f}")
    named = [("vertex", base["vertex"], row["vertex"])]
    named += [("a seed's", *pair) for pair in zip(base["vertex_by_seed"], row["vertex_by_seed"], strict=True)]
    yield from (f"{name} {log2(here / origin):+.2f} octaves" for name, origin, here in named if origin and here)


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Bits per byte against the rate: a row of panels a parametrization, a line a shape, its best marked.

    The dotted line is at the best rate of the base.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # text as text, and the same bytes every time
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "transfer", "font.size": 9})
    figure, panels = pyplot.subplots(2, 3, figsize=(9.6, 5.6), sharex=True, sharey="col", layout="constrained")
    titles = {"standard": "standard", "completep": "CompleteP"}
    for row in rows:
        panel = panels[list(titles).index(row["parametrization"]), list(AXES).index(row["axis"])]
        points = [(p["lr"], p["bits_per_byte"]) for p in row["points"] if p["bits_per_byte"] is not None]
        label = f"{row['n_layers']} layers x {row['d_model']}"
        panel.plot(*zip(*points, strict=True), ".-", color=COLOURS[row["factor"]], label=label, linewidth=1.2)
        if row["best"] is not None:
            panel.plot(row["best"], dict(points)[row["best"]], "o", color="#d94801", markersize=7, fillstyle="none")
            if row["factor"] == 1:
                panel.axvline(row["best"], color="#d94801", linewidth=0.8, linestyle=":")
    for title, line in zip(titles.values(), panels, strict=True):
        for axis, panel in zip(AXES, line, strict=True):
            panel.set_xscale("log", base=2)
            panel.set_title(f"{title}, 4x {axis}", fontsize=9)
            panel.legend(frameon=False, fontsize=7)
            both = [p["bits_per_byte"] for row in rows if row["axis"] == axis for p in row["points"]]
            figures = [figure for figure in both if figure is not None]
            panel.set_ylim(min(figures) - 0.05, min(min(figures) + 1.5, max(figures) + 0.05))
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel("bits per byte, held out", fontsize=9)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("JSON", "SVG"), help="draw what was measured, and end")
    options = parser.parse_args()
    if options.plot:
        draw(json.loads(options.plot[0].read_text())["shapes"], options.plot[1])
        return
    logging.disable(logging.WARNING)
    found = sweep(options.out, options.workers, options.seeds)
    made = document(found, options.seeds)
    (options.out / "transfer.json").write_text(json.dumps(made, indent=1) + "\n")
    draw(made["shapes"], options.out / "transfer.svg")
    for row in made["shapes"]:
        best = row["why_none"] if row["best"] is None else f"best {row['best']:.5f}"
        print(f"{row['parametrization']:10} {row['n_layers']} x {row['d_model']}: {best}")
    print(*moves(made["shapes"]), sep="\n")


if __name__ == "__main__":
    main()
