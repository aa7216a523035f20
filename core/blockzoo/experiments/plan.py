"""From an experiment's YAML to a list of plans, one a run: everything is checked here, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockzoo.accounting import account
from blockzoo.config import load_config
from blockzoo.config.merge import merge
from blockzoo.config.node import Node, Problems
from blockzoo.config.parse import section
from blockzoo.config.schema import ModelConfig
from blockzoo.config.yaml_source import from_overrides, read_yaml
from blockzoo.errors import BlockzooError, ConfigError, InputError, Problem
from blockzoo.experiments.config import ArmConfig, ExperimentConfig, SampleConfig, on_axis
from blockzoo.registry import Registry
from blockzoo.tokenizers import tokenizer_name
from blockzoo.training.config import DataConfig, SeedsConfig, TrainConfig


@dataclass(frozen=True)
class ArmPlan:
    """One run of one arm, complete: whoever has it can execute it, in this process or another."""

    arm: str
    model: ModelConfig
    train: TrainConfig
    data: DataConfig
    tokenizer: str
    sample: SampleConfig
    context: int
    out: Path


def load_experiment(file: Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """An experiment from YAML; ``overrides`` by dotted key. Raises ConfigError with everything wrong in it."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; an experiment is a YAML file with arms and a train section")
    return section(ExperimentConfig, with_overrides(read_yaml(file), overrides or {}))


def with_overrides(node: Node, overrides: Mapping[str, Any]) -> Node:
    """A tree with values laid over it by dotted key. Raises ConfigError for what can't be laid over."""
    problems = Problems()
    for tree in from_overrides(dict(overrides), problems):
        node = merge(node, tree)
    problems.raise_any()
    return node


def make_plans(experiment: ExperimentConfig, folder: Path, out: Path, *, registry: Registry) -> list[ArmPlan]:
    """The runs of an experiment whose file lies in ``folder``. Raises ConfigError, all arms together."""
    models: dict[str, ModelConfig] = {}
    problems: list[Problem] = []
    for name, arm in experiment.arms.items():
        try:
            models[name] = _model(experiment, name, arm, folder, registry)
        except ConfigError as error:
            problems += [
                Problem(f"arm '{name}': {p.place}" if p.place else f"arm '{name}'", p.message) for p in error.problems
            ]
        except BlockzooError as error:
            problems.append(Problem(f"arm '{name}'", str(error)))
    if problems:
        raise ConfigError(problems)
    check_equal(experiment, models)
    path = experiment.data.path
    data = experiment.data if path is None else experiment.data.model_copy(update={"path": folder / path})
    return [
        ArmPlan(
            arm=name if len(experiment.seeds) < 2 else f"{name}, seed {train.seeds.init}",
            model=model,
            train=train,
            data=data,
            tokenizer=tokenizer_name(model, registry=registry),
            sample=experiment.sample,
            context=experiment.shown_context,
            out=out,
        )
        for name, model in models.items()
        for train in _recipes(experiment)
    ]


def check_equal(experiment: ExperimentConfig, models: Mapping[str, ModelConfig]) -> None:
    """Raise ConfigError, with each arm's number, where the arms aren't equal on the axis that the experiment names."""
    equal = experiment.equal
    if equal is None:
        return
    numbers = {n: on_axis(account(model, experiment.shown_context), equal.axis) for n, model in models.items()}
    low, high = min(numbers.values()), max(numbers.values())
    if high > low * (1 + equal.tolerance):
        listed = ", ".join(f"{name} {number:,}" for name, number in numbers.items())
        message = (
            f"arms must have equal {equal.axis} within {equal.tolerance:.2%}, the greatest is"
            f" {high / max(low, 1) - 1:.2%} above the smallest: {listed}; change the arms or equal.tolerance"
        )
        raise ConfigError([Problem("equal", message)])


def _model(experiment: ExperimentConfig, name: str, arm: ArmConfig, folder: Path, registry: Registry) -> ModelConfig:
    ref: str | Path | dict[str, Any] | None = experiment.base if arm.config is None else arm.config
    if ref is None:
        raise InputError("names no config and the experiment has no base; give one of the two")
    if isinstance(ref, str) and (folder / ref).is_file():
        ref = folder / ref
    overrides = {"name": name, **arm.set}
    if experiment.tokenizer is not None:
        overrides["tokenizer"] = experiment.tokenizer
    return load_config(ref, overrides, registry=registry)


def _recipes(experiment: ExperimentConfig) -> list[TrainConfig]:
    seeds = [SeedsConfig(init=seed, data=seed, dropout=seed) for seed in experiment.seeds]
    return [experiment.train.model_copy(update={"seeds": s}) for s in seeds] or [experiment.train]
