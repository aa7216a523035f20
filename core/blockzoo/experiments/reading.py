"""Runs as a report needs them, read from their folders: figures, curves, what was measured afterwards.

What is damaged or was trained on other text is refused, with its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from blockzoo.errors import CheckpointError, InputError
from blockzoo.experiments.measure import MEASUREMENTS
from blockzoo.experiments.record import RECORD, ArmRecord, ExperimentRecord, RunRecord
from blockzoo.training.folder import RunFolder

ACCOUNT = {"parameters", "flops_per_token", "training_flops", "tokens", "kv_cache_bytes", "weight_bytes"}
"""Keys of an arm's account without which nothing can be reported."""


@dataclass(frozen=True)
class Point:
    """An evaluation on the way: the metric after so many tokens, training FLOPs and seconds of training."""

    step: int
    tokens: int
    flops: float
    seconds: float
    metric: float


@dataclass(frozen=True)
class RunResult:
    """One run. What it never came to is None or empty. ``folder`` is a name beside the experiment's folder."""

    arm: str
    purpose: Literal["verdict", "scout"]
    seed: int
    lr: float
    folder: str
    state: str
    error: str | None
    diverged: bool
    metric: float | None
    figures: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figure(self) -> float | None:
        """The metric for statistics: nan where training diverged, None where there is no result for another reason."""
        return math.nan if self.diverged else self.metric


def read_record(folder: Path) -> ExperimentRecord:
    """The record in an experiment's folder. Raises InputError where there is none, CheckpointError where damaged."""
    file = folder / RECORD
    try:
        record = ExperimentRecord.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no experiment is recorded there (no {RECORD}); name the folder that 'blockzoo compare' printed"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file}: can't be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(file, f"{f' at {place}' if place else ''}: {first['msg']}") from error
    if record.baseline not in {arm.name for arm in record.arms}:
        raise _damaged(file, f" at baseline: there is no arm '{record.baseline}'")
    for number, arm in enumerate(record.arms):
        lacking = ACCOUNT - arm.account.keys()
        if lacking:
            raise _damaged(file, f" at arms.{number}.account of arm '{arm.name}': has no {min(lacking)}")
    return record


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{file}: damaged{what}; delete it and run the experiment again, finished runs are kept")


def read_runs(record: ExperimentRecord, folder: Path) -> list[RunResult]:
    """All runs of a record, scouts too. Raises CheckpointError for a damaged one, InputError for other data."""
    runs = [
        read_run(record, arm, run, purpose, folder.parent / run.folder)
        for arm in record.arms
        for purpose, of_arm in (("scout", arm.scouts), ("verdict", arm.runs))
        for run in of_arm
    ]
    check_data(record, runs)
    return runs


def read_run(record: ExperimentRecord, arm: ArmRecord, run: RunRecord, purpose: Any, path: Path) -> RunResult:
    """One run: from its folder where that exists, as recorded where it was never begun."""
    folder = RunFolder(path)
    status = folder.status()
    state = run.state if status["state"] == "new" else status["state"]
    error = status.get("error") or run.error
    figures = _mapping(folder, "result.json") if state == "done" else {}
    metric = figures.get(record.metric)
    if state == "done" and not _is_number(metric):
        raise CheckpointError(
            f"{path / 'result.json'}: has no {record.metric}, which the experiment is about; delete {path} and run the"
            " experiment again"
        )
    return RunResult(
        arm=arm.name,
        purpose=purpose,
        seed=run.seed,
        lr=run.lr,
        folder=run.folder,
        state=state,
        error=None if state == "done" else error,
        diverged=state == "failed" and (error or "").startswith("DivergenceError"),
        metric=metric,
        figures=figures,
        curve=tuple(_curve(record, arm, folder)),
        measured=_mapping(folder, MEASUREMENTS),
        identity=_mapping(folder, "run.json"),
    )


def _mapping(folder: RunFolder, name: str) -> dict[str, Any]:
    """One of a run's JSON files, empty where it isn't there."""
    found = folder.read(name)
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(f"{folder.path / name}: is no mapping; delete {folder.path} and run the experiment again")
    return found or {}


def _curve(record: ExperimentRecord, arm: ArmRecord, folder: RunFolder) -> Iterable[Point]:
    """FLOPs are those of the whole run, in proportion to tokens; seconds leave out evaluation and saving."""
    flops_per_token = arm.account["training_flops"] / arm.account["tokens"]
    tokens, seconds = 0, 0.0
    for number, line in enumerate(folder.metrics.read(), 1):
        try:
            if not isinstance(line, dict):
                raise TypeError("not a mapping")
            if "loss" in line and "tokens" in line:
                tokens, seconds = line["tokens"], seconds + line["seconds"]
            elif record.metric in line:
                yield Point(line["step"], tokens, tokens * flops_per_token, seconds, float(line[record.metric]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder.metrics.file}:{number}: damaged ({error}); delete {folder.path} and run the experiment again"
            ) from error


def check_data(record: ExperimentRecord, runs: Iterable[RunResult]) -> None:
    """Raise InputError where runs saw different data. A hash is of text and tokens, so there is one a tokenizer."""
    seen: dict[str, tuple[str, str]] = {}  # tokenizer -> the first run's hash and folder
    for run in runs:
        if "data" not in run.identity:
            continue  # it never began
        data, tokenizer = run.identity["data"], run.identity.get("tokenizer", "")
        expected, other = seen.setdefault(tokenizer, (data, run.folder))
        if data != expected:
            raise InputError(
                f"{run.folder} was trained on other data ({data[:16]}) than {other} ({expected[:16]}): runs over"
                " different data are not compared; run the experiment again, with --restart"
            )
    if len(seen) == 1:
        ((data, folder),) = seen.values()
        if data != record.data_sha256:
            raise InputError(
                f"{folder} was trained on other data ({data[:16]}) than the experiment's ({record.data_sha256[:16]}):"
                " runs over different data are not compared; run the experiment again, with --restart"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
