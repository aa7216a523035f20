"""What ``blockzoo compare`` takes beside its runs: N runs of about 20 seconds through an executor, one after another.

    python tests/benchmarks/scheduling_overhead.py [--runs 6] [--seconds 20] [--workers 1] [--executor local]

A first, short comparison measures the speed and tokenises the text; the second one is sized by it. Own time of a run:
from the writing of its ``run.json`` to its last file, that is building, training, evaluating, saving and sampling;
all else is overhead: starting processes, importing, reading the text, tables and the report. With several workers own
time is divided by them, so what they slow each other down counts for nobody. Aim: below 5 %.
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


def own_seconds(run: Path) -> float:
    """From its beginning to its last file."""
    files = [run / name for name in ("result.json", "status.json", "sample.json")]
    return max(file.stat().st_mtime for file in files if file.exists()) - (run / "run.json").stat().st_mtime


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, runs = compare(folder, options, WARM_UP_TOKENS, 1)
        speed = min(json.loads((run / "result.json").read_text())["tokens_per_second"] for run in runs)
        wall, runs = compare(folder, options, round(speed * options.seconds), max(1, options.runs // 2))
        own = sum(map(own_seconds, runs))
        training = sum(json.loads((run / "result.json").read_text())["seconds"] for run in runs)
    return {
        "executor": options.executor,
        "workers": options.workers,
        "runs": len(runs),
        "wall_seconds": round(wall, 2),
        "own_seconds": round(own, 2),
        "training_seconds": round(training, 2),
        "overhead": round(wall / (own / options.workers) - 1, 4),
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
