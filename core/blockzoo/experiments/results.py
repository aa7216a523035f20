"""The results of an experiment as data: collected from its record and its run folders, never from logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from blockzoo.experiments.reading import RunResult, read_record, read_runs
from blockzoo.experiments.record import ArmRecord, ExperimentRecord
from blockzoo.experiments.statistics import Comparison, Difference, Sample, compare
from blockzoo.experiments.views import View, views

FORMAT = 1
MENDED = "that mended, and the same command again"


@dataclass(frozen=True)
class ArmResult:
    """One arm: what it is (``record``), its runs, and its figures. Speeds are medians over its runs, memory the
    greatest.

    ``difference`` is None for the baseline. ``train_loss``: nats a token, mean over the last twentieth of the steps and
    over runs. ``peak_memory_bytes``: see ``measure``. ``expert_load``: layer -> share of each expert, of the first run.
    """

    record: ArmRecord
    runs: tuple[RunResult, ...]
    scouts: tuple[RunResult, ...]
    sample: Sample
    difference: Difference | None
    tokens: int | None
    seconds: float | None
    train_loss: float | None
    train_tokens_per_second: float | None
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    peak_memory_bytes: int | None
    expert_load: Mapping[str, list[float]]
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def account(self) -> Mapping[str, Any]:
        return self.record.account

    @property
    def failures(self) -> list[RunResult]:
        return [run for run in (*self.scouts, *self.runs) if run.state == "failed"]


@dataclass(frozen=True)
class Results:
    """All that a report shows. ``notes``: what a reader must know before believing a figure."""

    record: ExperimentRecord
    arms: tuple[ArmResult, ...]
    comparison: Comparison
    views: tuple[View, ...]
    notes: tuple[str, ...]

    def arm(self, name: str) -> ArmResult:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def baseline(self) -> ArmResult:
        return self.arm(self.record.baseline)

    @property
    def failures(self) -> list[RunResult]:
        return [run for arm in self.arms for run in arm.failures]

    def as_json(self) -> dict[str, Any]:
        """One document; what isn't a finite number is null."""
        record = self.record.model_dump(mode="json", exclude={"arms"})
        whole = asdict(self)
        del whole["record"]
        return _finite({"format": FORMAT, "experiment": record, **whole})


def collect(folder: Path) -> Results:
    """The results of the experiment recorded in ``folder``, as far as it has come.

    Raises InputError where nothing is recorded or runs saw different data, CheckpointError for what is damaged.
    """
    record = read_record(folder)
    runs = read_runs(record, folder)
    verdicts = {arm.name: [r for r in runs if r.arm == arm.name and r.purpose == "verdict"] for arm in record.arms}
    figures = {name: {r.seed: f for r in of if (f := r.figure) is not None} for name, of in verdicts.items()}
    comparison = _with_problems(record, compare(figures, record.baseline, record.statistics, record.lower_is_better))
    arms = tuple(
        _arm(arm, verdicts[arm.name], [r for r in runs if r.arm == arm.name and r.purpose == "scout"], comparison)
        for arm in record.arms
    )
    done = {name: [r for r in of if r.state == "done"] for name, of in verdicts.items()}
    schedules = {arm.name: arm.train.get("schedule", {}).get("type", "") for arm in record.arms}
    cuts = views(done, record.baseline, record.statistics, record.lower_is_better, schedules)
    return Results(record, arms, comparison, tuple(cuts), tuple(_notes(record, arms)))


def _with_problems(record: ExperimentRecord, comparison: Comparison) -> Comparison:
    """Where an arm has no verdict runs, the reason is why."""
    problems = {arm.name: arm.problem for arm in record.arms if arm.problem is not None}
    said = {
        name: d if name not in problems else replace(d, reason=f"no verdict runs: {problems[name]}", advice=MENDED)
        for name, d in comparison.differences.items()
    }
    return replace(comparison, differences=said)


def _arm(record: ArmRecord, runs: list[RunResult], scouts: list[RunResult], comparison: Comparison) -> ArmResult:
    done = [run for run in runs if run.state == "done"]
    measured = [run.measured for run in done]
    first: Mapping[str, Any] = measured[0] if measured else {}
    peak = [m["peak_memory_bytes"] for m in measured if m.get("peak_memory_bytes") is not None]
    return ArmResult(
        record=record,
        runs=tuple(runs),
        scouts=tuple(scouts),
        sample=comparison.arms[record.name],
        difference=comparison.differences.get(record.name),
        tokens=_over(median, (run.figures.get("tokens") for run in done)),
        seconds=_over(median, (run.figures.get("seconds") for run in done)),
        train_loss=_over(lambda x: sum(x) / len(x), (run.figures.get("train_loss") for run in done)),
        train_tokens_per_second=_over(median, (run.figures.get("tokens_per_second") for run in done)),
        prefill_tokens_per_second=_over(median, (m.get("prefill_tokens_per_second") for m in measured)),
        decode_tokens_per_second=_over(median, (m.get("decode_tokens_per_second") for m in measured)),
        peak_memory_bytes=max(peak, default=None),
        expert_load=first.get("expert_load") or {},
        texts=tuple(first.get("texts") or ()),
    )


def _over(how: Callable[[list[Any]], Any], values: Iterable[Any]) -> Any:
    there = [value for value in values if value is not None]
    return how(there) if there else None


def _notes(record: ExperimentRecord, arms: Iterable[ArmResult]) -> Iterable[str]:
    arms = list(arms)
    if record.demonstration:
        yield "This is a demonstration: the training is too short to decide which architecture is better."
    open_runs = [run for arm in arms for run in arm.runs if run.state not in ("done", "failed")]
    if open_runs:
        yield f"{len(open_runs)} verdict runs aren't finished: these figures are of those that are."
    for arm in arms:
        if arm.record.problem is not None:
            yield f"{arm.name} has no verdict runs: {arm.record.problem}"
    heavy = [arm for arm in arms if _embedding_share(arm) > 0.5]
    if heavy:
        shares = ", ".join(f"{arm.name} {100 * _embedding_share(arm):.0f} %" for arm in heavy)
        yield (
            f"Embedding and unembedding are most of the parameters ({shares}): at such sizes totals say little about"
            " the architecture."
        )
    found = [run.identity.get("environment") for arm in arms for run in arm.runs if run.state == "done"]
    if len({str(environment) for environment in found if environment is not None}) > 1:
        yield "Runs were made in different environments (versions, threads or devices): speeds don't compare."
    if record.policy == "fixed" and len(arms) > 1:
        yield (
            "All arms were trained at the rates the experiment gives, none was tuned: an arm may lose by its learning"
            " rate alone."
        )


def _embedding_share(arm: ArmResult) -> float:
    counts = arm.account["parameters"]
    return (counts["embedding"] + counts["unembedding"]) / counts["total"]


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity; pydantic models inside become mappings."""
    if isinstance(value, ArmRecord):
        return _finite(value.model_dump(mode="json", exclude={"runs", "scouts"}))
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
