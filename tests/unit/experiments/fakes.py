"""Experiments that never ran: folders as ``blockzoo compare`` leaves them, with figures of known truth.

``python -m tests.unit.experiments.fakes FOLDER`` writes one to look at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blockzoo.experiments.config import EqualConfig, StatisticsConfig
from blockzoo.experiments.record import RECORD, ArmRecord, ExperimentRecord, RunRecord

DATA = "a1b2c3d4" * 8
TOKENS, STEPS, EVALUATIONS = 4_096_000, 1000, 10
RATES = (0.001, 0.002, 0.004)
ENVIRONMENT = {"blockzoo": "0.1.0", "torch": "2.13.0", "threads": 1, "device": "cpu AVX2"}


@dataclass(frozen=True)
class FakeArm:
    """``truth``: the mean of the final metric. ``speed``: training tokens/s. ``states``: seed -> how its run ended."""

    name: str
    truth: float
    n_layers: int = 8
    d_model: int = 128
    n_experts: int | None = None
    speed: float = 20_000.0
    flops_per_token: float = 3.2e6
    lr: float | None = 0.002
    problem: str | None = None
    states: Mapping[int, str] = field(default_factory=dict)


ARMS = (
    FakeArm("balanced", 1.800),
    FakeArm("deep", 1.774, n_layers=16, d_model=88, speed=13_000.0, flops_per_token=3.4e6, lr=0.001),
    FakeArm("wide", 1.829, n_layers=3, d_model=216, speed=27_000.0, flops_per_token=2.9e6),
    FakeArm(
        "wide-experts", 1.798, n_layers=4, d_model=160, n_experts=8, speed=9_000.0, flops_per_token=2.2e6, lr=0.004
    ),
)
TEXTS = ["import os\n\ndef join(path, *paths):\n    return <b>path</b>\n", "The module " + "x" * 130]


def write_experiment(
    folder: Path,
    arms: Sequence[FakeArm] = ARMS,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    sigma: float = 0.006,
    policy: Any = "grid",
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Run folders in ``folder`` and the experiment in ``folder/little``, which is returned."""
    rng = np.random.default_rng(seed)
    common = dict(zip(seeds, rng.normal(0, 2 * sigma, len(seeds)), strict=True))
    record = ExperimentRecord(
        **{
            "name": "little",
            "description": "Deep or wide at equal non-embedding parameters, on a text that nobody wrote",
            "demonstration": False,
            "baseline": arms[0].name,
            "metric": "bits_per_byte",
            "context": 256,
            "block": 256,
            "policy": policy,
            "equal": EqualConfig(),
            "statistics": StatisticsConfig(resamples=199),
            "data": "words",
            "data_sha256": DATA,
            "command": "blockzoo compare little.yaml --out runs",
            "environment": ENVIRONMENT,
            "arms": [_arm(folder, arm, seeds, common, sigma, policy, rng) for arm in arms],
            **changes,
        }
    )
    out = folder / record.name
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).write_text(record.model_dump_json(indent=1))
    return out


def _arm(
    folder: Path,
    arm: FakeArm,
    seeds: Sequence[int],
    common: Mapping[int, float],
    sigma: float,
    policy: str,
    rng: np.random.Generator,
) -> ArmRecord:
    scouts, runs = [], []
    if policy == "grid":
        best = arm.lr or RATES[-1]
        for lr in RATES if best in RATES[1:-1] else (*RATES, best / 2 if best == RATES[0] else best * 2):
            metric = arm.truth + 0.02 * np.log2(lr / best) ** 2
            state = "diverged" if lr > 0.004 else "done"
            scouts.append(_run(folder, arm, 1000, lr, state, metric, rng))
    for seed in seeds if arm.problem is None else ():
        metric = arm.truth + common[seed] + rng.normal(0, sigma)
        runs.append(_run(folder, arm, seed, arm.lr or 0.002, arm.states.get(seed, "done"), metric, rng))
    return ArmRecord(
        name=arm.name,
        model={"d_model": arm.d_model},
        train={"schedule": {"type": "cosine"}, "tokens": TOKENS},
        account=account_of(arm),
        turned={"d_ff": 344},
        mismatch={
            "non_embedding": 0.0 if arm is ARMS[0] else 0.004,
            "flops_per_token": arm.flops_per_token / 3.2e6 - 1,
        },
        lr=arm.lr,
        problem=arm.problem,
        scouts=tuple(scouts),
        runs=tuple(runs),
    )


def account_of(arm: FakeArm) -> dict[str, Any]:
    embedding, mixer, ffn = 256 * arm.d_model, 530_000, 1_060_000
    kv = 4 * arm.d_model * arm.n_layers
    total = 2 * embedding + mixer + ffn + 4_000
    return {
        "n_layers": arm.n_layers,
        "d_model": arm.d_model,
        "aspect_ratio": arm.d_model / arm.n_layers,
        "n_heads": 4,
        "d_ff": 344,
        "n_experts": arm.n_experts,
        "parameters": {
            "total": total,
            "active": total - embedding - (ffn // 2 if arm.n_experts else 0),
            "non_embedding": total - 2 * embedding,
            "embedding": embedding,
            "unembedding": embedding,
            "mixer": mixer,
            "ffn": ffn,
            "other": 4_000,
            "experts": ffn if arm.n_experts else 0,
            "experts_active": ffn // 2 if arm.n_experts else 0,
        },
        "flops_per_token": int(arm.flops_per_token),
        "training_flops": 3 * arm.flops_per_token * TOKENS,
        "tokens": TOKENS,
        "kv_cache_bytes": {str(context): kv * context for context in (1024, 8192, 32768, 131072)},
        "weight_bytes": {"float32": 4 * total, "bfloat16": 2 * total, "as_configured": 2 * total},
    }


def _run(
    folder: Path, arm: FakeArm, seed: int, lr: float, state: str, metric: float, rng: np.random.Generator
) -> RunRecord:
    """``state``: done, failed, diverged, or planned, which leaves no folder."""
    name = f"{arm.name}-{seed}-{lr:g}"
    if state == "planned":
        return RunRecord(seed=seed, lr=lr, folder=name)
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    _write(path / "run.json", {"data": DATA, "tokenizer": "bytes", "environment": ENVIRONMENT})
    if state != "done":
        error = "RunError: out of memory"
        if state == "diverged":
            error = "DivergenceError: the loss is nan at step 17: training diverged. Lower train.optimizer.lr"
        _write(path / "status.json", {"state": "failed", "error": error})
        return RunRecord(seed=seed, lr=lr, folder=name, state="failed", error=error.partition(": ")[2])
    _write(path / "status.json", {"state": "done"})
    lines: list[dict[str, Any]] = []
    per_step = TOKENS // STEPS
    for step in range(10, STEPS + 1, 10):
        seconds = 10 * per_step / arm.speed
        lines.append(
            {"step": step, "tokens": step * per_step, "loss": 2.0, "grad_norm": 1.0, "lr": lr, "seconds": seconds}
        )
        if step % (STEPS // EVALUATIONS) == 0:
            lines.append({"step": step, "bits_per_byte": float(metric) + 1.2 * (STEPS / step) ** 0.5 - 1.2})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {
        "bits_per_byte": lines[-1]["bits_per_byte"],
        "train_loss": float(metric) * 0.69,
        "steps": STEPS,
        "tokens": TOKENS,
        "seconds": TOKENS / arm.speed,
        "tokens_per_second": arm.speed,
        "finished": "2026-01-01T00:00:00Z",
    }
    _write(path / "result.json", result)
    load = rng.dirichlet(np.full(arm.n_experts, 8.0)).tolist() if arm.n_experts else []
    _write(
        path / "measurements.json",
        {
            "texts": TEXTS,
            "decode_tokens_per_second": 4800 / arm.n_layers * (1 + 0.05 * float(rng.normal())),
            "prefill_tokens": 256,
            "prefill_tokens_per_second": 3 * arm.speed,
            "peak_memory_bytes": 150_000_000 + seed,
            "expert_load": {str(layer): load for layer in range(arm.n_layers)} if load else {},
        },
    )
    return RunRecord(seed=seed, lr=lr, folder=name, state="done")


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


if __name__ == "__main__":
    print(write_experiment(Path(sys.argv[1])))
