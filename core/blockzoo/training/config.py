"""How one model is trained: the ``train`` and ``data`` sections of YAML."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from blockzoo.config.schema import Section


class OptimizerConfig(Section):
    """YAML: ``optimizer: {lr: 1.0e-3, weight_decay: 0.1}``. AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101."""

    lr: PositiveFloat = Field(1e-3, description="greatest learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the gradient's first and second moments")
    eps: PositiveFloat = Field(1e-8, description="added to the root of the second moment")
    weight_decay: NonNegativeFloat = Field(0.1, description="for matrices and embeddings; never gains, biases, sinks")
    clip: PositiveFloat | None = Field(1.0, description="greatest norm of all gradients together; null: not clipped")

    @model_validator(mode="after")
    def _check(self) -> OptimizerConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}; each must be at least 0 and below 1")
        return self


class ScheduleConfig(Section):
    """YAML: ``schedule: {type: cosine, warmup: 100}``. The learning rate over the steps."""

    type: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine", description="after warmup: half a cosine, a line, nothing, or constant and then a line (wsd)"
    )
    warmup: NonNegativeInt = Field(0, description="steps over which the rate rises from 0 in a line")
    final: float = Field(0.1, ge=0, le=1, description="the rate at the last step, as a fraction of lr")
    decay: float = Field(0.2, gt=0, le=1, description="wsd: the fraction of all steps that decay takes")

    def factor(self, step: int, steps: int) -> float:
        """What lr is multiplied by at ``step`` of ``steps``, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.type == "constant":
            return 1.0
        start = max(self.warmup, steps - round(self.decay * steps)) if self.type == "wsd" else self.warmup
        done = min(1.0, max(0.0, (step - start) / max(1, steps - 1 - start)))
        return self.final + (1 - self.final) * _shape(self.type, done)


def _shape(kind: str, done: float) -> float:
    """1 where decay begins, 0 where it ends."""
    return 0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done


class EvalConfig(Section):
    """YAML: ``eval: {every: 250, tokens: 65536}``. Bits per byte on the same held-out tokens every time."""

    every: PositiveInt | None = Field(None, description="steps between evaluations; null: only after the last step")
    tokens: PositiveInt = Field(65536, description="held-out tokens predicted, from the start of the held-out stream")


class SeedsConfig(Section):
    """YAML: ``seeds: {init: 0, data: 0, dropout: 0}``. Apart: arms share an order of data and differ in init."""

    init: NonNegativeInt = Field(0, description="draws the weights")
    data: NonNegativeInt = Field(0, description="draws the order of the data")
    dropout: NonNegativeInt = Field(0, description="draws everything random inside a step")


class CompletePConfig(Section):
    """YAML: ``parametrization: {type: completep, d_model: 256, n_layers: 4}``. Dey et al. 2025, arXiv:2505.01618.

    The optimizer's settings are those of a model of this shape; training/parametrization.py scales them to another's.
    """

    type: Literal["completep"]
    d_model: PositiveInt = Field(description="width of the model that lr was tuned at")
    n_layers: PositiveInt = Field(description="layers of the model that lr was tuned at")


BUDGETS = ("steps", "tokens", "flops", "seconds")


class TrainConfig(Section):
    """YAML: ``train:``. One budget: steps, tokens, flops or seconds.

    FLOPs and seconds are turned into tokens before a run begins: a run knows only tokens, and is the same on every
    machine.
    """

    steps: PositiveInt | None = Field(None, description="the budget in optimizer steps")
    tokens: PositiveInt | None = Field(None, description="the budget in tokens, rounded up to whole steps")
    flops: PositiveFloat | None = Field(
        None, description="the budget in training FLOPs (3 x forward), rounded to whole steps"
    )
    seconds: PositiveFloat | None = Field(
        None, description="the budget in seconds of training on this machine, measured before the run"
    )
    batch_size: PositiveInt = Field(12, description="sequences in one forward pass")
    block: PositiveInt = Field(256, description="tokens in a sequence")
    accumulation: PositiveInt = Field(1, description="forward passes summed up in one step")
    device: str = Field("cpu", description="where to train: cpu, cuda, cuda:1, mps")
    parallel: Literal["auto", "none", "ddp", "fsdp"] = Field(
        "auto",
        description="how processes that torchrun starts share the work: each holds the model (ddp; auto is this) or a"
        " part of it (fsdp)",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of activations; bfloat16 autocasts, and weights and optimizer stay float32"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    parametrization: CompletePConfig | None = Field(
        None, description="how lr, weight decay, eps, init and branches change with the shape; null: not at all"
    )
    schedule: ScheduleConfig = ScheduleConfig()
    eval: EvalConfig = EvalConfig()
    seeds: SeedsConfig = SeedsConfig()
    checkpoint_every: PositiveInt | None = Field(
        None, description="steps between checkpoints; null: the last step only"
    )
    log_every: PositiveInt = Field(10, description="steps between writes of metrics; each step has its line")
    trackers: tuple[str, ...] = Field((), description="plugins that also get the figures, such as tensorboard")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"give one budget: steps or tokens or flops or seconds; found {found}")
        if given[0] in ("steps", "tokens") and self.schedule.warmup >= self.total_steps:
            raise ValueError(f"schedule.warmup is {self.schedule.warmup}, the whole run has {self.total_steps} steps")
        return self

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.block

    @property
    def total_steps(self) -> int:
        """Known where the budget is steps or tokens: ``experiments.budget.in_tokens`` makes the others so."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None, "a budget in FLOPs or seconds is turned into tokens before a run"
        return -(-self.tokens // self.tokens_per_step)
