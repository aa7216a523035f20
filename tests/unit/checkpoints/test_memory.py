"""Peak memory of loading Qwen3-0.6B's real shape in bfloat16, by what the system says of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blockzoo.checkpoints import read_config
from blockzoo.checkpoints.safetensors_io import Planned, write_shards
from blockzoo.checkpoints.tensors import wanted
from blockzoo.registry import Registry

PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
LOAD = """
import sys, torch, blockzoo
model = blockzoo.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
assert model.dtype == torch.bfloat16
"""
CONFIG = {
    "model_type": "qwen3",
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}


RELAY = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"


def peak(code: str, *arguments: str) -> int:
    """Bytes. Linux counts what the parent held when it spawned a process, so a small one stands between."""
    relay = [sys.executable, "-c", RELAY]
    done = subprocess.run(
        [*relay, sys.executable, "-c", f"{code}\n{PEAK}", *arguments], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_peak_memory_is_the_model_and_little_more(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    family = registry.get("family", "qwen3")
    entries = family.layouts["hf"].keys.entries(wanted(read_config(tmp_path, registry=registry)))

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape).mul_(0.02).to(torch.bfloat16)

    planned = [Planned(e.stored, torch.bfloat16, e.shape, lambda shape=e.shape: random(shape)) for e in entries]
    assert sum(p.nbytes for p in planned) == 2 * 596_049_920
    write_shards(tmp_path, planned, shard_bytes=10**10)
    assert (tmp_path / "model.safetensors").stat().st_size > 1.19e9

    bare, loaded = peak("import torch"), peak(LOAD, str(tmp_path))
    weights = 2 * 596_049_920
    print(f"weights {weights / 1e6:.0f} MB, over the interpreter {(loaded - bare) / 1e6:.0f} MB")
    assert loaded - bare <= 1.10 * weights + 300e6
