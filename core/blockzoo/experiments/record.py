"""The record of an experiment: ``experiment.json`` in its folder, from which every report is made.

An experiment's folder holds the record and what is made from it (``report.html``, ``results.csv``, ``results.json``).
Runs lie beside it, named by their hashes, so two experiments that ask for the same run share it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from blockzoo.config.schema import Section
from blockzoo.experiments.config import EqualConfig, StatisticsConfig

FORMAT: Literal[1] = 1
RECORD = "experiment.json"


class RunRecord(Section):
    """One run. ``folder`` is its name beside the experiment's folder; all its figures are read from there."""

    seed: int
    lr: float
    folder: str
    state: Literal["planned", "running", "interrupted", "failed", "done"] = "planned"
    error: str | None = None


class ArmRecord(Section):
    """One arm. ``account`` is exact and known before anything ran.

    Its keys: n_layers, d_model, aspect_ratio, n_heads and d_ff and n_experts (None where layers differ or have none),
    parameters {total, active, non_embedding, embedding, unembedding, mixer, ffn, other, experts, experts_active},
    flops_per_token (forward, at the experiment's context), training_flops (the whole run), tokens (of the whole run),
    kv_cache_bytes {"1024", "8192", "32768", "131072": bfloat16, one sequence}, weight_bytes {float32, bfloat16,
    as_configured, and mxfp4 where every matrix of mixers and ffns can be packed}.
    """

    name: str
    model: dict[str, Any] = Field(description="the canonical dump of the solved model")
    train: dict[str, Any] = Field(description="the recipe, without the rate that a grid finds")
    account: dict[str, Any]
    turned: dict[str, float] = Field({}, description="knob -> the value that the solver gave it")
    mismatch: dict[str, float] = Field({}, description="axis -> this arm over the baseline, less one")
    lr: float | None = Field(None, description="the rate of the verdict runs, once it is known")
    problem: str | None = Field(None, description="why there are no verdict runs: no interior optimum, all diverged")
    scouts: tuple[RunRecord, ...] = ()
    runs: tuple[RunRecord, ...] = ()


class ExperimentRecord(Section):
    """What was asked for and which runs answer it."""

    format: Literal[1] = FORMAT
    name: str
    description: str
    demonstration: bool
    identity: str = Field("", description="sha256 of what was asked for, arms resolved")
    baseline: str
    metric: str = Field(description="a key of result.json's figures: bits_per_byte, or a task's own")
    lower_is_better: bool = True
    context: int
    block: int = Field(description="train.block")
    policy: Literal["fixed", "grid", "completep"]
    equal: EqualConfig | None
    statistics: StatisticsConfig
    data: str = Field(description="name of the data")
    data_sha256: str
    command: str = Field(description="what repeats it")
    environment: dict[str, Any]
    arms: tuple[ArmRecord, ...]
