"""Budgets become tokens before a run begins: a run knows only steps or tokens, so it is the same on every machine.

FLOPs: training FLOPs of a run = 3 x forward FLOPs of a token, averaged over the block's positions, x tokens (2 for each
multiply-add of a matrix product; the backward pass multiplies for the inputs and for the weights). Seconds: a few steps
of the model itself are timed on this machine, and what was measured is kept, so that the same command means the same
run.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from blockzoo.config.schema import ModelConfig
from blockzoo.errors import ConfigError, Problem
from blockzoo.experiments.axes import training_flops
from blockzoo.experiments.speed import speed_of
from blockzoo.registry import Registry
from blockzoo.training.config import BUDGETS, TrainConfig


def in_tokens(
    train: TrainConfig, model: ModelConfig, out: Path, *, registry: Registry, threads: int | None = None
) -> TrainConfig:
    """The recipe with its budget in steps or tokens, whole steps nearest to what was asked for.

    ``out``: where measured speeds are kept, beside the runs; ``threads``: CPU threads to measure with. Raises
    ConfigError where less than half a step comes out, or no more than warmup.
    """
    if train.steps is not None or train.tokens is not None:
        return train
    if train.flops is not None:
        name, budget = "flops", train.flops
        of_a_step = float(training_flops(model, train.block, train.tokens_per_step))
    else:
        assert train.seconds is not None
        name, budget = "seconds", train.seconds
        of_a_step = speed_of(model, train, out, registry=registry, threads=threads).step_seconds
    steps = round(budget / of_a_step)
    if steps < 1:
        message = f"{name} is {budget:.4g}, one step of {train.tokens_per_step:,} tokens takes {of_a_step:.4g}"
        raise ConfigError([Problem("", f"{message}; raise it, or lower train.batch_size")])
    return with_budget(train, tokens=steps * train.tokens_per_step)


def with_budget(train: TrainConfig, **budget: int) -> TrainConfig:
    """The same recipe with this one budget. Raises ConfigError where it doesn't fit the rest."""
    values = train.model_dump(exclude=set(BUDGETS))
    try:
        return TrainConfig.model_validate({**values, **budget})
    except ValidationError as error:
        raise ConfigError([Problem("", str(error.errors()[0]["ctx"]["error"]))]) from error
