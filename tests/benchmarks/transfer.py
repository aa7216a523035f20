"""Which learning rate is best at which shape, with the standard parametrization and with CompleteP.

    python tests/benchmarks/transfer.py [--out runs/transfer] [--workers 2] [--seeds 0 1]
    python tests/benchmarks/transfer.py --plot docs/guide/learning-rates.json docs/guide/learning-rates.svg

Small models on bytes of the Python standard library, over 4 times the width, 4 times the depth, and both. At each
shape the search of ``blockzoo compare`` runs over a log2 grid until the best rate is an inner one. What is done is
kept: the same command goes on where it was stopped. All points are written to ``OUT/transfer.json``, which the plot
of docs/guide/learning-rates.md is drawn from. Aim: with CompleteP no best rate is more than one grid step from the
base's, where with the standard parametrization it moves. Steps are coarse, so the vertex of a parabola through the
best point and its neighbours is told, too.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import log2
from pathlib import Path
from statistics import fmean
from typing import Any

WIDTH, DEPTH, HEAD = 32, 2, 16
AXES = {"width": (1, 2, 4), "depth": (1, 2, 4), "both": (1, 4)}
GRID = tuple(2.0**power for power in range(-9, -4))
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
            for lr in answer.points
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


def document(found: Sequence[Found], seeds: Sequence[int], seconds: float) -> dict[str, Any]:
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
                "vertex": None if best is None else vertex(one.means, best),
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
        "seconds": round(seconds),
        "shapes": rows,
    }


def vertex(means: dict[float, float | None], best: float) -> float | None:
    """The rate at the least of the parabola, over log2 of the rate, through the best point and its two neighbours."""
    rates = sorted(means)
    index = rates.index(best)
    low, middle, high = (means[rate] for rate in rates[index - 1 : index + 2])
    if low is None or middle is None or high is None or low + high <= 2 * middle:
        return None
    return best * 2 ** (0.5 * (low - high) / (low - 2 * middle + high))


def moves(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, int, float | None, float | None]]:
    """(parametrization, axis, factor, octaves of the best rate from the base's, the same of vertices)."""
    for (parametrization, axis), group in groupby(rows, key=lambda row: (row["parametrization"], row["axis"])):
        base, *others = group
        for row in others:
            octaves = [log2(row[k] / base[k]) if row[k] and base[k] else None for k in ("best", "vertex")]
            yield parametrization, axis, row["factor"], *octaves


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Bits per byte against the rate: a row of panels a parametrization, a line a shape, its best marked."""
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
    for (parametrization, title), line in zip(titles.items(), panels, strict=True):
        for axis, panel in zip(AXES, line, strict=True):
            panel.set_xscale("log", base=2)
            panel.set_title(f"{title}, 4x {axis}", fontsize=9)
            panel.legend(frameon=False, fontsize=7)
            best = [row for row in rows if row["parametrization"] == parametrization and row["axis"] == axis]
            figures = [p["bits_per_byte"] for row in best for p in row["points"] if p["bits_per_byte"] is not None]
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
    begin = time.perf_counter()
    found = sweep(options.out, options.workers, options.seeds)
    made = document(found, options.seeds, time.perf_counter() - begin)
    (options.out / "transfer.json").write_text(json.dumps(made, indent=1) + "\n")
    draw(made["shapes"], options.out / "transfer.svg")
    for row in made["shapes"]:
        best = row["why_none"] if row["best"] is None else f"best {row['best']:.5f}"
        print(f"{row['parametrization']:10} {row['n_layers']} x {row['d_model']}: {best}")
    for parametrization, axis, factor, steps, octaves in moves(made["shapes"]):
        moved = "no optimum" if steps is None else f"{steps:+.0f} grid steps"
        between = "" if octaves is None else f", vertex {octaves:+.1f} octaves"
        print(f"{parametrization:10} {factor}x {axis}: {moved}{between}")


if __name__ == "__main__":
    main()
