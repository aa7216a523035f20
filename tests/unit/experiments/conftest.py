"""Two tiny arms over a tiny text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

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
