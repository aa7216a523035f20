"""What is measured on a trained model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from blockzoo.building import build
from blockzoo.config import load_config
from blockzoo.experiments.measure import expert_load, prefill_speed
from blockzoo.experiments.plan import load_experiment, make_plan
from blockzoo.experiments.run import is_complete, run_arm
from blockzoo.registry import Registry
from blockzoo.training.config import TrainConfig
from tests.conftest import builtin_registry
from tests.unit.experiments.conftest import BASE, EXPERIMENT, write


@pytest.fixture(scope="module")
def registry() -> Registry:
    return builtin_registry()


@dataclass(frozen=True)
class Words:
    """Held-out batches of tokens alone."""

    batches: tuple[torch.Tensor, ...]

    def held_out_batches(self, n_tokens: int, n_sequences: int, length: int) -> Any:
        return ((batch, batch) for batch in self.batches)


def experts(n: int) -> dict[str, Any]:
    ffn = {"type": "moe", "n_experts": n, "top_k": 1, "expert": {"type": "glu", "d_ff": 8}, "router": {"bias": True}}
    return {**BASE, "layers": {**BASE["layers"], "ffn": ffn}}


def test_the_load_of_experts_is_counted_over_all_tokens(registry: Registry) -> None:
    model = build(load_config(experts(3), registry=registry), registry=registry)
    batches = (torch.randint(0, 256, (4, 16)), torch.randint(0, 256, (1, 16)))
    train = TrainConfig(steps=1, block=16)
    with torch.no_grad():
        for layer in model.layers:
            layer.ffn.router.bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
    assert expert_load(model, Words(batches), train) == {"0": [0.0, 1.0, 0.0], "1": [0.0, 1.0, 0.0]}
    with torch.no_grad():
        for layer in model.layers:
            layer.ffn.router.bias.zero_()
    load = expert_load(model, Words(batches), train)
    both = [expert_load(model, Words((batch,)), train) for batch in batches]
    for layer, shares in load.items():
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx([0.8 * a + 0.2 * b for a, b in zip(both[0][layer], both[1][layer], strict=True)])


def test_a_dense_model_has_no_experts(registry: Registry) -> None:
    model = build(load_config(BASE, registry=registry), registry=registry)
    assert expert_load(model, Words((torch.zeros(1, 4, dtype=torch.int64),)), TrainConfig(steps=1, block=4)) == {}
    assert prefill_speed(model, torch.zeros(1, 16, dtype=torch.int64)) > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets an earlier peak")
def test_the_peak_of_memory_is_that_of_the_body() -> None:
    """In a process of its own: one that has freed much gives what it still holds to the body, and hardly grows."""
    program = """
import torch
from blockzoo.experiments.memory import peak_memory
with peak_memory("cpu") as large:
    torch.ones(2**24)
with peak_memory("cpu") as small:
    torch.ones(1024)
print(large.growth, small.growth)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    large, small = map(int, done.stdout.split())
    assert large >= 0.9 * 2**26
    assert small < 0.5 * 2**26


def test_a_run_is_measured_once(experiment_file: Path, tmp_path: Path, registry: Registry) -> None:
    def planned() -> Any:
        experiment = load_experiment(experiment_file)
        plan = make_plan(experiment, experiment_file.parent, tmp_path / "runs", registry=registry)
        return plan.run("plain", seed=plan.seeds[0], lr=0.001, purpose="verdict")

    run = planned()
    folder = run_arm(run, registry=registry)
    assert is_complete(folder, run)
    first = folder.read("measurements.json")
    assert first is not None
    assert first["texts"][0].startswith("the ")
    assert first["decode_tokens_per_second"] > 0
    assert first["prefill_tokens_per_second"] > 0
    assert first["prefill_tokens"] == 16
    assert first["expert_load"] == {}
    assert run_arm(run, registry=registry).read("measurements.json") == first
    write(experiment_file, {**EXPERIMENT, "sample": {"prompts": ["a ", "b "], "max_new_tokens": 4}})
    again = planned()
    assert not is_complete(folder, again)
    second = run_arm(again, registry=registry).read("measurements.json")
    assert second is not None
    assert len(second["texts"]) == 2
    assert second["peak_memory_bytes"] == first["peak_memory_bytes"]  # of the training, which was long ago
