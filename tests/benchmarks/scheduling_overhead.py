"""What ``blockzoo compare`` takes beside its runs: N runs of about 20 seconds through an executor, one after another.

    python tests/benchmarks/scheduling_overhead.py [--runs 6] [--seconds 20] [--workers 1] [--executor local]

A first, short comparison measures the speed and tokenises the text; the second one is sized by it. ``overhead`` is the
time between the first run's beginning and the last one's end beyond the runs' own, over their own: starting processes
and keeping the record. Aim: below 5 %. What an experiment takes once, however many runs it has (importing, reading the
text, a process to fork from, tables and the report), is told apart. With several workers own time is divided by them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = {
    "vocab_size": 256,
    "context_length": 64,
    "tokenizer": "bytes",
    "d_model": 64,
    "embedding": {"position": {"type": "learned"}},
    "norm": {"type": "layer_norm"},
    "layers": {"count": 2, "mixer": {"type": "gqa", "n_heads": 2}, "ffn": {"type": "mlp", "d_ff": 256}},
}
WARM_UP_TOKENS = 20_000


def compare(folder: Path, options: argparse.Namespace, tokens: int, n_seeds: int) -> tuple[float, list[Path]]:
    """Wall seconds of a comparison of two arms, and the folders of its runs."""
    folder.mkdir(exist_ok=True)
    experiment = {
        "name": "overhead",
        "base": MODEL,
        "arms": {"deep": {"set": {"layers.count": 3}}, "wide": {"set": {"d_model": 80}}},
        "train": {"tokens": tokens, "batch_size": 8, "block": 64, "eval": {"tokens": 8192}},
        "seeds": list(range(n_seeds)),
        "executor": {"type": options.executor, "workers": options.workers},
        "sample": {"max_new_tokens": 2},
    }
    file = folder / f"{tokens}.yaml"
    file.write_text(json.dumps(experiment))
    before = runs_below(folder)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "blockzoo", "compare", str(file), "--out", str(folder / "runs")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin, sorted(runs_below(folder) - before)


def runs_below(folder: Path) -> set[Path]:
    return {file.parent for file in folder.rglob("result.json") if (file.parent / "run.json").is_file()}


def span(run: Path) -> tuple[float, float]:
    """When a run began, with its ``run.json``, and when its newest file was written: building, training, evaluating,
    saving and measuring lie between the two.
    """
    return (run / "run.json").stat().st_mtime, max(file.stat().st_mtime for file in run.rglob("*"))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, runs = compare(folder, options, WARM_UP_TOKENS, 1)
        speed = min(json.loads((run / "result.json").read_text())["tokens_per_second"] for run in runs)
        wall, runs = compare(folder, options, round(speed * options.seconds), max(1, options.runs // 2))
        spans = [span(run) for run in runs]
    own = sum(end - begin for begin, end in spans) / options.workers
    together = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return {
        "executor": options.executor,
        "workers": options.workers,
        "runs": len(runs),
        "wall_seconds": round(wall, 2),
        "own_seconds": round(own, 2),
        "before_and_after_seconds": round(wall - together, 2),
        "overhead": round(together / own - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
