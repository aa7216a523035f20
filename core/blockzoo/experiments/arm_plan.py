"""What a plan is made of: runs that are complete, arms that are solved, and the experiment that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blockzoo.config.schema import ModelConfig
from blockzoo.experiments.config import ExperimentConfig, SampleConfig
from blockzoo.training.config import SeedsConfig, TrainConfig
from blockzoo.training.data_config import DataConfig

Purpose = Literal["scout", "verdict"]


@dataclass(frozen=True)
class RunPlan:
    """One run of one arm, complete: whoever has it can execute it, in this process or another.

    ``purpose``: a scout looks for the arm's learning rate, a verdict run is what arms are compared by. ``n_seeds``: how
    many runs differ from this one by nothing but their seed, itself included.
    """

    arm: str
    purpose: Purpose
    model: ModelConfig
    train: TrainConfig
    data: DataConfig
    tokenizer: str
    sample: SampleConfig
    context: int
    out: Path
    n_seeds: int = 1

    @property
    def seed(self) -> int:
        return self.train.seeds.init

    @property
    def lr(self) -> float:
        return self.train.optimizer.lr

    @property
    def label(self) -> str:
        """What progress and tables call it: ``wide, seed 1``, or ``wide, scouting 0.002``."""
        scouting = f", scouting {self.lr:.4g}" if self.purpose == "scout" else ""
        return self.arm + scouting + (f", seed {self.seed}" if self.n_seeds > 1 else "")


@dataclass(frozen=True)
class ArmPlan:
    """One arm: its model solved, its budget in steps or tokens.

    ``account``: the keys of ``ArmRecord.account``. ``turned``: knob -> the value that the solver gave it. ``mismatch``:
    axis -> this arm over the baseline, less one. Under a grid ``train.optimizer.lr`` is a placeholder.
    """

    name: str
    model: ModelConfig
    train: TrainConfig
    tokenizer: str
    account: Mapping[str, Any]
    turned: Mapping[str, float]
    mismatch: Mapping[str, float]


@dataclass(frozen=True)
class ExperimentPlan:
    """All arms of an experiment, ready to run. ``out``: where run folders are kept."""

    experiment: ExperimentConfig
    arms: tuple[ArmPlan, ...]
    baseline: str
    data: DataConfig
    out: Path

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the verdict runs."""
        return self.experiment.seeds or (self.experiment.train.seeds.init,)

    @property
    def scouting_seeds(self) -> tuple[int, ...]:
        """Of the scouting runs; none under a fixed rate."""
        policy = self.experiment.learning_rate
        return () if policy.type == "fixed" else policy.seeds

    def arm(self, name: str) -> ArmPlan:
        return next(arm for arm in self.arms if arm.name == name)

    def run(self, arm: ArmPlan | str, *, seed: int, lr: float, purpose: Purpose) -> RunPlan:
        """One run of an arm: with this seed for init, data and dropout alike, and this greatest learning rate."""
        arm = self.arm(arm) if isinstance(arm, str) else arm
        experiment, train = self.experiment, arm.train
        seeds = SeedsConfig(init=seed, data=seed, dropout=seed)
        if purpose == "verdict" and not experiment.seeds:
            seeds = train.seeds
        optimizer = train.optimizer.model_copy(update={"lr": lr})
        return RunPlan(
            arm=arm.name,
            purpose=purpose,
            model=arm.model,
            train=train.model_copy(update={"seeds": seeds, "optimizer": optimizer}),
            data=self.data,
            tokenizer=arm.tokenizer,
            sample=experiment.sample,
            context=experiment.shown_context,
            out=self.out,
            n_seeds=len(self.seeds if purpose == "verdict" else self.scouting_seeds),
        )

    def verdict_runs(self) -> tuple[RunPlan, ...]:
        """Every arm with every seed, at the rates of the arms' recipes."""
        return tuple(
            self.run(arm, seed=seed, lr=arm.train.optimizer.lr, purpose="verdict")
            for arm in self.arms
            for seed in self.seeds
        )
