"""Budgets in FLOPs and seconds become tokens, and what an experiment takes is known before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockzoo.accounting import account
from blockzoo.cli import main
from blockzoo.cli.planned import duration, show, summary
from blockzoo.config import ModelConfig, load_config
from blockzoo.errors import ConfigError
from blockzoo.experiments import estimate, speed
from blockzoo.experiments.axes import training_flops
from blockzoo.experiments.budget import in_tokens
from blockzoo.experiments.estimate import dry_run
from blockzoo.experiments.plan import load_experiment, make_plan
from blockzoo.experiments.speed import Speed
from blockzoo.registry import Registry
from blockzoo.training.config import ScheduleConfig, TrainConfig

from .conftest import BASE, EXPERIMENT, write


@pytest.fixture
def model(registry: Registry) -> ModelConfig:
    return load_config(BASE, registry=registry)


def test_flops_are_three_forward_passes_averaged_over_the_block(
    model: ModelConfig, registry: Registry, tmp_path: Path
) -> None:
    mean = sum(account(model, n).flops_per_token for n in range(1, 17)) / 16
    recipe = TrainConfig(flops=3 * mean * 4096, block=16, batch_size=4)
    found = in_tokens(recipe, model, tmp_path, registry=registry)
    assert (found.tokens, found.flops, found.total_steps) == (4096, None, 64)
    assert training_flops(model, 16, 4096) == 3 * mean * 4096
    assert in_tokens(found, model, tmp_path, registry=registry) is found
    assert not list(tmp_path.iterdir())


def test_flops_go_to_the_nearest_whole_step(model: ModelConfig, registry: Registry, tmp_path: Path) -> None:
    step = training_flops(model, 16, 64)
    for budget, steps in ((9.4 * step, 9), (9.6 * step, 10)):
        recipe = TrainConfig(flops=budget, block=16, batch_size=4)
        assert in_tokens(recipe, model, tmp_path, registry=registry).total_steps == steps


def test_budgets_that_are_too_small(model: ModelConfig, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flops is 1, one step of 64 tokens takes"):
        in_tokens(TrainConfig(flops=1, block=16, batch_size=4), model, tmp_path, registry=registry)
    step = training_flops(model, 16, 64)
    recipe = TrainConfig(flops=10 * step, block=16, batch_size=4, schedule=ScheduleConfig(warmup=20))
    with pytest.raises(ConfigError, match=r"warmup is 20, the whole run has 10 steps"):
        in_tokens(recipe, model, tmp_path, registry=registry)


@pytest.mark.parametrize("budgets", [{}, {"steps": 1, "flops": 1e9}, {"tokens": 3, "seconds": 2}])
def test_exactly_one_budget(budgets: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give one budget: steps or tokens or flops or seconds"):
        TrainConfig(**budgets)


def test_seconds_are_measured_once_and_kept(
    model: ModelConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainConfig(seconds=5, block=16, batch_size=4)
    measured: list[ModelConfig] = []

    def measure(config: ModelConfig, train: TrainConfig, *, registry: Registry) -> Speed:
        measured.append(config)
        return Speed(step_seconds=0.25, kept_bytes=100)

    monkeypatch.setattr(speed, "measure", measure)
    for _ in range(2):
        assert in_tokens(recipe, model, tmp_path, registry=registry, threads=1).tokens == 20 * 64
    assert len(measured) == 1
    (kept,) = (tmp_path / "speeds").iterdir()
    assert json.loads(kept.read_text())["measured"] == {"step_seconds": 0.25, "kept_bytes": 100}
    kept.write_text("{")
    in_tokens(recipe, model, tmp_path, registry=registry, threads=1)
    in_tokens(recipe.model_copy(update={"batch_size": 5}), model, tmp_path, registry=registry, threads=1)
    assert len(measured) == 3


def test_a_measured_speed_is_of_the_model_itself(model: ModelConfig, registry: Registry) -> None:
    one = speed.measure(model, TrainConfig(seconds=1, block=16, batch_size=1), registry=registry)
    four = speed.measure(model, TrainConfig(seconds=1, block=16, batch_size=4), registry=registry)
    assert one.step_seconds > 0
    assert 3.5 * one.kept_bytes < four.kept_bytes < 4.5 * one.kept_bytes
    logits = 16 * model.vocab_size * 4
    assert one.kept_bytes > logits


# --- dry run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_counts_runs_tokens_and_memory(
    experiment_file: Path, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"seeds": [1, 2, 3], "learning_rate": {"type": "grid", "extend": 2}, "executor": {"workers": 2}}
    experiment = load_experiment(write(experiment_file, {**EXPERIMENT, **changes}))
    plan = make_plan(experiment, experiment_file.parent, tmp_path / "runs", registry=registry)
    found = dry_run(plan, registry=registry)
    assert (found.runs, found.scouts, found.scouts_most) == (6, 6, 10)
    assert found.tokens == 12 * 4 * 2 * 16
    assert found.training_flops == sum(6 * arm.account["training_flops"] for arm in plan.arms)
    plain = found.arms[0]
    assert plain.memory["weights"] == 4 * plan.arms[0].account["parameters"]["total"]
    assert plain.memory["moments"] == 2 * plain.memory["gradients"]
    assert plain.speed == "measured"
    assert found.seconds is not None
    assert found.seconds == pytest.approx(sum(6 * (arm.seconds or 0) for arm in found.arms) / 2)
    json.dumps(found.as_json(), allow_nan=False)
    show(found)
    shown = capsys.readouterr()
    for word in ("plain (baseline)", "wide", "non_embedding to baseline", "best of 3", "3 + 3", "n_heads"):
        assert word in shown.out
    assert "runs: 6 to 10 scouting, 6 for the verdict" in shown.err
    assert "2 runs at a time" in shown.err


def test_an_arm_too_large_to_measure_gets_anothers_speed(
    experiment_file: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(load_experiment(experiment_file), experiment_file.parent, tmp_path, registry=registry)
    monkeypatch.setattr(estimate, "fits", lambda model, memory: model.name == "plain")
    plain, wide = dry_run(plan, registry=registry).arms
    assert (plain.speed, wide.speed) == ("measured", "plain's FLOPs a second")
    ratio = plan.arm("wide").account["training_flops"] / plan.arm("plain").account["training_flops"]
    assert plain.seconds is not None
    assert wide.seconds == pytest.approx(ratio * plain.seconds)
    assert wide.memory["activations"] is None
    monkeypatch.setattr(estimate, "fits", lambda model, memory: False)
    nothing = dry_run(plan, registry=registry)
    assert nothing.seconds is None
    assert "time: no arm could be measured here" in summary(nothing)


@pytest.mark.parametrize(("seconds", "said"), [(3.2, "3 s"), (600, "10 min"), (36000, "10.0 h")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_train_takes_flops(experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, text = experiment_file.parent / "base.yaml", experiment_file.parent / "words.txt"
    command = ["train", base, "--data", text, "--set", "train.flops=5e7", "--set", "train.batch_size=2"]
    assert main([str(word) for word in [*command, "--out", tmp_path, "--json"]]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["tokens"] % 32 == 0
    assert f"budget: {found['tokens']:,} tokens" in shown.err
