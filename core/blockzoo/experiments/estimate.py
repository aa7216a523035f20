"""What an experiment will take, before anything runs: runs, tokens, FLOPs, time and memory of every arm.

Parameters, tokens and FLOPs are exact. Time is of training alone (no evaluation, no saving), from a few steps of each
arm on drawn tokens; arms that don't fit in memory, and those left when ``SECONDS`` of measuring are over, get the
FLOPs a second of an arm that was measured, and say so. Memory is counted, not measured: weights, gradients and AdamW's
two moments in float32, what a forward pass keeps for the backward pass, and the gradient of the logits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from blockzoo.experiments.arm_plan import ArmPlan, ExperimentPlan
from blockzoo.experiments.config import CompletePRate
from blockzoo.experiments.rates import search
from blockzoo.experiments.speed import Speed, fits, speed_of
from blockzoo.experiments.threads import threads_each
from blockzoo.registry import Registry

SECONDS = 60.0
"""What measuring speeds may take; the arm that is being measured then is finished."""
FLOAT = 4


@dataclass(frozen=True)
class ArmEstimate:
    """One arm. ``scouts`` and ``scouts_most``: runs that look for its rate, without and with all extensions.

    ``seconds``: of one run; ``speed``: ``measured``, or whose FLOPs a second were taken; None where none was measured.
    ``memory``: bytes by what they are for, ``activations`` None where it wasn't measured.
    """

    name: str
    account: Mapping[str, Any]
    turned: Mapping[str, float]
    mismatch: Mapping[str, float]
    lr: str
    scouts: int
    scouts_most: int
    runs: int
    steps: int
    seconds: float | None
    speed: str | None
    memory: Mapping[str, int | None]

    @property
    def memory_bytes(self) -> int:
        return sum(n for n in self.memory.values() if n is not None)


@dataclass(frozen=True)
class DryRun:
    """An experiment before it runs. ``seconds``: over all workers; None where no arm could be measured."""

    name: str
    baseline: str
    context: int
    workers: int
    threads: int
    arms: tuple[ArmEstimate, ...]
    scouts: int
    scouts_most: int
    runs: int
    tokens: int
    training_flops: int
    seconds: float | None
    seconds_most: float | None
    memory_bytes: int

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        for arm, estimate in zip(found["arms"], self.arms, strict=True):
            arm["memory_bytes"] = estimate.memory_bytes
        return found


def dry_run(plan: ExperimentPlan, *, registry: Registry) -> DryRun:
    """What ``blockzoo compare --dry-run`` shows; speeds are measured now, or read where they were."""
    speeds = _speeds(plan, registry)
    arms = tuple(_estimate(plan, arm, speeds) for arm in plan.arms)
    workers = plan.experiment.executor.workers

    def total(most: bool) -> float | None:
        times = [arm.seconds for arm in arms if arm.seconds is not None]
        if len(times) < len(arms):
            return None
        counts = [arm.runs + (arm.scouts_most if most else arm.scouts) for arm in arms]
        return sum(n * seconds for n, seconds in zip(counts, times, strict=True)) / workers

    return DryRun(
        name=plan.experiment.name,
        baseline=plan.baseline,
        context=plan.experiment.shown_context,
        workers=workers,
        threads=threads_each(plan.experiment.executor),
        arms=arms,
        scouts=sum(arm.scouts for arm in arms),
        scouts_most=sum(arm.scouts_most for arm in arms),
        runs=sum(arm.runs for arm in arms),
        tokens=sum((arm.scouts + arm.runs) * arm.account["tokens"] for arm in arms),
        training_flops=sum((arm.scouts + arm.runs) * arm.account["training_flops"] for arm in arms),
        seconds=total(most=False),
        seconds_most=total(most=True),
        memory_bytes=sum(sorted((arm.memory_bytes for arm in arms), reverse=True)[:1]) * workers,
    )


def _estimate(plan: ExperimentPlan, arm: ArmPlan, speeds: Mapping[str, Speed]) -> ArmEstimate:
    policy, train = plan.experiment.learning_rate, arm.train
    found = search(policy, train.optimizer.lr)
    searched = found is not None and (not isinstance(policy, CompletePRate) or policy.base == arm.name)
    points = len(found.points) if found is not None and searched else 0
    extend = found.extend if found is not None and searched else 0
    seeds = len(plan.scouting_seeds)
    seconds, speed = _seconds(arm, plan.arms, speeds)
    weights = arm.account["parameters"]["total"] * FLOAT
    kept = speeds[arm.name].kept_bytes if arm.name in speeds else None
    return ArmEstimate(
        name=arm.name,
        account=arm.account,
        turned=arm.turned,
        mismatch=arm.mismatch,
        lr=_rate(plan, arm, points),
        scouts=points * seeds,
        scouts_most=(points + extend) * seeds,
        runs=len(plan.seeds),
        steps=train.total_steps,
        seconds=seconds,
        speed=speed,
        memory={
            "weights": weights,
            "gradients": weights,
            "moments": 2 * weights,
            "activations": kept,
            "logits": train.batch_size * train.block * arm.model.vocab_size * FLOAT,
        },
    )


def _rate(plan: ExperimentPlan, arm: ArmPlan, points: int) -> str:
    """How the arm comes by its learning rate, in a few words."""
    policy = plan.experiment.learning_rate
    if points:
        return f"best of {points}"
    if isinstance(policy, CompletePRate) and policy.points and policy.base != arm.name:
        return f"from {policy.base}"
    return f"{arm.train.optimizer.lr:g}"


def _speeds(plan: ExperimentPlan, registry: Registry) -> dict[str, Speed]:
    """Arm -> its speed, of as many arms as fit in memory and time."""
    begin, memory, found = time.monotonic(), _memory(), {}
    threads = threads_each(plan.experiment.executor)
    for arm in plan.arms:
        on_host = arm.train.device == "cpu"
        if time.monotonic() - begin > SECONDS or (on_host and not fits(arm.model, memory // 2)):
            continue
        found[arm.name] = speed_of(arm.model, arm.train, plan.out, registry=registry, threads=threads)
    return found


def _seconds(arm: ArmPlan, arms: tuple[ArmPlan, ...], speeds: Mapping[str, Speed]) -> tuple[float | None, str | None]:
    """The seconds of a run, and where they are from."""
    if arm.name in speeds:
        return arm.train.total_steps * speeds[arm.name].step_seconds, "measured"
    for other in arms:
        if other.name in speeds:
            flops = other.account["training_flops"] / other.train.total_steps / speeds[other.name].step_seconds
            return arm.account["training_flops"] / flops, f"{other.name}'s FLOPs a second"
    return None, None


def _memory() -> int:
    """Of this machine, in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30  # a small machine's
