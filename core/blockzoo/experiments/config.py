"""An experiment: arms that differ in what is compared and share everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from blockzoo.accounting import Account
from blockzoo.config.schema import Section
from blockzoo.training.config import DataConfig, TrainConfig

Axis = Literal["non_embedding", "total", "active", "flops_per_token", "kv_cache_bytes"]


class ArmConfig(Section):
    """YAML: ``wide: {config: gpt2, set: {d_model: 256}}``."""

    config: str | dict[str, Any] | None = Field(
        None, description="a model's name, a YAML file (seen from the experiment's) or a mapping; default: the base"
    )
    set: dict[str, Any] = Field({}, description="dotted keys of the model that this arm changes")


class EqualConfig(Section):
    """YAML: ``equal: {axis: non_embedding, tolerance: 0.01}``. What all arms must share, checked before any runs."""

    axis: Axis = Field(
        "non_embedding", description="what is held equal; FLOPs and KV bytes at the experiment's context"
    )
    tolerance: PositiveFloat = Field(0.01, description="greatest over smallest, less one")


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
    arms: dict[str, ArmConfig] = Field(min_length=1, description="name -> model")
    equal: EqualConfig | None = Field(None, description="what must be the same in all arms; null: nothing is checked")
    train: TrainConfig = Field(description="the recipe, the same for all arms")
    data: DataConfig = Field(DataConfig(), description="the text, the same for all arms")
    tokenizer: str | None = Field(None, description="for all arms; default: each model's own")
    seeds: tuple[NonNegativeInt, ...] = Field(
        (), description="run every arm once with each, for init, data and dropout alike; default: train.seeds, once"
    )
    context: PositiveInt | None = Field(
        None, description="tokens that FLOPs and KV bytes are given at; default: train.block"
    )
    sample: SampleConfig = SampleConfig()

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


def on_axis(account: Account, axis: Axis) -> int:
    """The number of one model that an experiment may hold equal."""
    if axis == "non_embedding":
        return account.non_embedding
    if axis == "flops_per_token":
        return account.flops_per_token
    return account.kv_cache_bytes() if axis == "kv_cache_bytes" else account.parameters[axis]
