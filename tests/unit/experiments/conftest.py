"""Two tiny arms over a tiny text."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from blockzoo.experiments.worker import Job, RunEnd, perform
from blockzoo.training.folder import RunFolder

BASE = {
    "vocab_size": 256,
    "context_length": 16,
    "d_model": 16,
    "tokenizer": "bytes",
    "embedding": {"tied": True},
    "norm": {"type": "rms_norm"},
    "position": {"type": "rope", "theta": 100},
    "layers": {
        "count": 2,
        "mixer": {"type": "gqa", "n_heads": 2, "bias": True},
        "ffn": {"type": "glu", "d_ff": 32},
    },
}
EXPERIMENT: dict[str, Any] = {
    "name": "little",
    "base": "base.yaml",
    "arms": {"plain": {}, "wide": {"set": {"layers.ffn.d_ff": 33}}},
    "equal": {"axis": "non_embedding", "tolerance": 0.05},
    "train": {"steps": 4, "batch_size": 2, "block": 16, "eval": {"tokens": 64}},
    "data": {"path": "words.txt"},
    "sample": {"prompts": ["the "], "max_new_tokens": 6},
}


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "words.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    return write(folder / "little.yaml", EXPERIMENT)


def write(file: Path, experiment: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return file


def timeless(folder: RunFolder) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The metrics and the result of a run, without what a clock said."""
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in folder.metrics.read()]
    clocks = ("seconds", "tokens_per_second", "finished")
    return metrics, {k: v for k, v in (folder.result() or {}).items() if k not in clocks}


def same_runs(out: Path, other: Path) -> None:
    """All runs of one experiment and of its repetition elsewhere are the same, bit for bit."""
    names = {file.parent.name for file in other.glob("*/run.json")}
    assert names
    assert names == {file.parent.name for file in out.glob("*/run.json")}
    for name in names:
        assert RunFolder(out / name).status() == {"state": "done"}
        assert timeless(RunFolder(out / name)) == timeless(RunFolder(other / name)), name


class Here:
    """An executor without processes, which counts the jobs it was given."""

    threads = 1

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run(self, jobs: Sequence[Job]) -> Generator[RunEnd, None, None]:
        for job in jobs:
            self.jobs.append(job)
            yield perform(job)

    def close(self) -> None: ...
