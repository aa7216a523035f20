"""An experiment: arms that differ in what is compared and share everything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

from blockzoo.config.node import Node
from blockzoo.config.schema import Section
from blockzoo.training.config import TrainConfig
from blockzoo.training.data_config import DataConfig

Axis = Literal[
    "total", "non_embedding", "active", "flops_per_token", "training_flops", "kv_cache_bytes", "weight_bytes"
]


class KnobConfig(Section):
    """YAML: ``{key: d_ff, multiple: 8}``. What a solver may turn."""

    key: str = Field(
        min_length=1,
        description="width (d_model and all that grows with it), depth, d_ff, experts, or a dotted key of the model",
    )
    multiple: PositiveInt = Field(1, description="only multiples of this are tried")
    along: dict[str, PositiveFloat] = Field(
        {}, description="dotted keys that move with a dotted key: each is this factor times the key's value, rounded"
    )


class ArmConfig(Section):
    """YAML: ``wide: {config: gpt2, set: {d_model: 256}}``."""

    config: str | dict[str, Any] | None = Field(
        None, description="a model's name, a YAML file (seen from the experiment's) or a mapping; default: the base"
    )
    set: dict[str, Any] = Field({}, description="dotted keys of the model that this arm changes")
    train: dict[str, Any] = Field({}, description="dotted keys of train that this arm changes: such as optimizer.lr")
    solve: tuple[str | KnobConfig, ...] | None = Field(
        None, description="knobs for this arm; default: equal.solve; an empty list leaves the arm as it is"
    )


class EqualConfig(Section):
    """YAML: ``equal: {axis: non_embedding, tolerance: 0.01, solve: [d_ff]}``. What all arms must share.

    Without ``solve`` it is only checked. With it each arm's knobs are turned, one after another, until the arm is as
    near as it gets.
    """

    axis: Axis = Field(
        "non_embedding", description="what is held equal; FLOPs and KV bytes at the experiment's context"
    )
    tolerance: PositiveFloat = Field(0.01, description="greatest over smallest, less one")
    target: PositiveFloat | None = Field(None, description="the number to reach; default: the baseline's")
    solve: tuple[str | KnobConfig, ...] = Field((), description="what may be turned: coarse knobs first")


class FixedRate(Section):
    """YAML: ``learning_rate: {type: fixed}``. Every arm trains with train.optimizer.lr."""

    type: Literal["fixed"] = "fixed"


class GridRate(Section):
    """YAML: ``learning_rate: {type: grid, points: [1e-3, 2e-3, 4e-3]}``. Each arm's best, found before the verdict.

    The best of the points must be an inner one; where it isn't the grid grows by factors of two at that end.
    """

    type: Literal["grid"]
    points: tuple[PositiveFloat, ...] = Field(
        (), description="rates to try; default: train.optimizer.lr and its half and double"
    )
    extend: NonNegativeInt = Field(4, description="points that may be added before giving up")
    seeds: tuple[NonNegativeInt, ...] = Field((1000,), min_length=1, description="of the scouting runs, no verdict's")


class CompletePRate(Section):
    """YAML: ``learning_rate: {type: completep, base: small}``. Dey et al. 2025, arXiv:2505.01618.

    The base arm's rate, transferred to each arm by the roles of its parameters.
    """

    type: Literal["completep"]
    base: str = Field(description="the arm whose shape the rate was tuned at")
    points: tuple[PositiveFloat, ...] = Field(
        (), description="rates to try on the base arm first; default: train.optimizer.lr is taken as tuned"
    )
    extend: NonNegativeInt = Field(4, description="points that may be added before giving up")
    seeds: tuple[NonNegativeInt, ...] = Field((1000,), min_length=1, description="of the scouting runs, no verdict's")


RatePolicy = Annotated[FixedRate | GridRate | CompletePRate, Field(discriminator="type")]


class StatisticsConfig(Section):
    """YAML: ``statistics: {level: 0.05, smallest_effect: 0.005}``. What a verdict needs."""

    level: float = Field(0.05, gt=0, lt=1, description="of all false verdicts together (Holm over the arms)")
    smallest_effect: NonNegativeFloat = Field(
        0.0, description="differences of the metric below this are of no interest; more seeds aren't asked for them"
    )
    power: float = Field(0.8, gt=0, lt=1, description="the chance of finding a difference that more seeds are for")
    resamples: PositiveInt = Field(9999, description="of the bootstrap")
    seed: NonNegativeInt = Field(0, description="of the bootstrap")


class ExecutorConfig(Section):
    """YAML: ``executor: {type: local, workers: 2, threads: 1}``. Who runs the runs; no number depends on it."""

    type: Literal["local", "ray"] = Field(
        "local", description="processes on this machine, or a Ray cluster ([cluster])"
    )
    workers: PositiveInt = Field(1, description="runs at a time")
    threads: PositiveInt | None = Field(
        None, description="CPU threads of each run, part of what makes its bits; default: all, over the workers"
    )
    gpus: NonNegativeFloat = Field(0.0, description="ray: GPUs for each run, fractions too")
    retries: NonNegativeInt = Field(2, description="times that a run is started again after its process died")
    address: str | None = Field(None, description="ray: of a running cluster; default: one on this machine")


class SampleConfig(Section):
    """YAML: ``sample: {prompts: ["import "]}``. Texts from each trained arm; they time decoding."""

    prompts: tuple[str, ...] = Field(("import ",), min_length=1, description="what is continued, each by itself")
    max_new_tokens: PositiveInt = Field(100, description="tokens generated for each, as far as the context holds them")
    temperature: float = Field(0.8, ge=0, description="0 is greedy")
    top_k: PositiveInt | None = Field(None, description="draw from the k likeliest only")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from the likeliest that reach p together")
    seed: NonNegativeInt = Field(0, description="of the draws")

    @field_validator("prompts")
    @classmethod
    def _not_empty(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(prompts):
            raise ValueError("a prompt is empty; generation starts from at least one token")
        return prompts


class ExperimentConfig(Section):
    """A YAML file for ``blockzoo compare``."""

    name: str = Field(min_length=1, description="what reports call it")
    description: str = Field("", description="printed above the table")
    demonstration: bool = Field(
        False, description="too short to decide anything, and said so wherever figures are shown"
    )
    base: str | dict[str, Any] | None = Field(None, description="the model of arms that name none")
    arms: dict[str, ArmConfig] = Field({}, description="name -> model")
    vary: dict[str, tuple[Any, ...]] = Field(
        {}, description="dotted key of the model -> values: every combination, of every arm, or of the base"
    )
    baseline: str | None = Field(None, description="the arm that the others are compared to; default: the first")
    equal: EqualConfig | None = Field(None, description="what must be the same in all arms; null: nothing is checked")
    train: TrainConfig = Field(description="the recipe, the same for all arms")
    learning_rate: RatePolicy = Field(FixedRate(), description="how each arm comes by its learning rate")
    data: DataConfig = Field(DataConfig(), description="the text, the same for all arms")
    tokenizer: str | None = Field(None, description="for all arms; default: each model's own")
    seeds: tuple[NonNegativeInt, ...] = Field(
        (), description="run every arm once with each, for init, data and dropout alike; default: train.seeds, once"
    )
    statistics: StatisticsConfig = StatisticsConfig()
    executor: ExecutorConfig = ExecutorConfig()
    context: PositiveInt | None = Field(
        None, description="tokens that FLOPs and KV bytes are given at; default: train.block"
    )
    sample: SampleConfig = SampleConfig()

    _places: dict[tuple[str, ...], str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.arms and not self.vary:
            raise ValueError("an experiment has arms, or values to vary, or both")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}: a seed twice is one run counted as two")
        return self

    @field_validator("arms")
    @classmethod
    def _named(cls, arms: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
        for name in arms:
            if not name or Path(name).name != name:
                raise ValueError(f"arm {name!r}: a name must do as a part of a file name")
        return arms

    @property
    def shown_context(self) -> int:
        return self.train.block if self.context is None else self.context

    def place(self, *path: str) -> str:
        """Where in its file the deepest part of a path stands that is there; the path itself for one without a file."""
        for n in range(len(path), 0, -1):
            if path[:n] in self._places:
                return self._places[path[:n]]
        return ".".join(path)

    def at(self, node: Node) -> Self:
        """The same experiment, knowing where its tree of YAML was written."""
        self._places.update(_places(node))
        return self


def _places(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, inner in node.mapping.items():
        yield (*path, key), str(node.key_place(key))
        yield from _places(inner, (*path, key))
