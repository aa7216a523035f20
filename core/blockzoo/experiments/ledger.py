"""The book of an experiment: its folder, held alone, and the record in it, written whole whenever something ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blockzoo.checkpoints.atomic import write_file
from blockzoo.config import digest, dump
from blockzoo.errors import InputError
from blockzoo.experiments.arm_plan import ArmPlan, ExperimentPlan, RunPlan
from blockzoo.experiments.reading import read_record
from blockzoo.experiments.record import FORMAT, RECORD, ArmRecord, ExperimentRecord, RunRecord
from blockzoo.experiments.worker import changed
from blockzoo.registry import Registry
from blockzoo.training.lock import alone
from blockzoo.training.run import UNHASHED
from blockzoo.training.source import Source


def identity(plan: ExperimentPlan, registry: Registry) -> str:
    """sha256 of what was asked for, arms resolved: however the YAML is spelt, the same experiment has the same one.

    Neither the text's own hash nor versions are in it: where those change under an experiment it is said, not evaded.
    Left out is what decides how figures are judged or shown, and no run.
    """
    experiment = plan.experiment
    asked = {
        "format": FORMAT,
        "name": experiment.name,
        "baseline": plan.baseline,
        "seeds": plan.seeds,
        "learning_rate": experiment.learning_rate.model_dump(mode="json"),
        "data": experiment.data.model_dump(mode="json"),
        "arms": {arm.name: [digest(arm.model, registry), arm.tokenizer, _recipe(arm)] for arm in plan.arms},
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _recipe(arm: ArmPlan) -> dict[str, Any]:
    return arm.train.model_dump(mode="json", exclude=UNHASHED)


def experiment_folder(plan: ExperimentPlan, registry: Registry) -> Path:
    """``<out>/<name>-<hash>``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plan.experiment.name).strip(".-") or "experiment"
    return plan.out / f"{name}-{identity(plan, registry)[:8]}"


class Ledger:
    """The record of one experiment while it is conducted. Every change is on disk when a method returns."""

    def __init__(self, path: Path, record: ExperimentRecord) -> None:
        self.path = path
        self._record = record
        self._arms = {arm.name: arm for arm in record.arms}

    @property
    def record(self) -> ExperimentRecord:
        return self._record.model_copy(update={"arms": tuple(self._arms.values())})

    def note_runs(self, runs: Mapping[RunKey, RunRecord]) -> None:
        """Put runs in, or in the place of what was said of them before."""
        for (arm, purpose, seed, lr), run in runs.items():
            field = "scouts" if purpose == "scout" else "runs"
            said = {(one.seed, one.lr): one for one in getattr(self._arms[arm], field)} | {(seed, lr): run}
            self._change(arm, **{field: tuple(said.values())})
        self._write()

    def note_rate(self, arm: str, lr: float) -> None:
        """The rate of an arm's verdict runs."""
        self._change(arm, lr=lr)
        self._write()

    def note_problem(self, arm: str, problem: str) -> None:
        """Why an arm has no verdict runs."""
        self._change(arm, problem=problem)
        self._write()

    def _change(self, arm: str, **changes: Any) -> None:
        self._arms[arm] = self._arms[arm].model_copy(update=changes)

    def _write(self) -> None:
        write_file(self.path / RECORD, self.record.model_dump_json(indent=1) + "\n")


RunKey = tuple[str, str, int, float]
"""Arm, purpose, seed, learning rate: what tells the runs of one experiment apart."""


def key(plan: RunPlan) -> RunKey:
    return plan.arm, plan.purpose, plan.seed, plan.lr


@contextlib.contextmanager
def open_ledger(
    plan: ExperimentPlan,
    sources: Mapping[str, Source],
    environment: dict[str, Any],
    *,
    command: str,
    registry: Registry,
    restart: bool = False,
) -> Iterator[Ledger]:
    """The ledger of an experiment, new or found, held alone. ``sources``: arm -> its tokens.

    Raises InputError where the folder holds another experiment, where its text or its environment changed, BusyError
    where another process conducts it.
    """
    path = experiment_folder(plan, registry)
    source = sources[plan.baseline]
    record = ExperimentRecord(
        name=plan.experiment.name,
        description=plan.experiment.description,
        demonstration=plan.experiment.demonstration,
        identity=identity(plan, registry),
        baseline=plan.baseline,
        metric=source.metric,
        lower_is_better=source.lower_is_better,
        context=plan.experiment.shown_context,
        block=plan.experiment.train.block,
        policy=plan.experiment.learning_rate.type,
        equal=plan.experiment.equal,
        statistics=plan.experiment.statistics,
        data=source.name,
        data_sha256=source.sha256,
        command=command,
        environment=environment,
        arms=tuple(_arm(arm, registry) for arm in plan.arms),
    )
    with alone(path, f"{path}: another process conducts this experiment; wait for it or stop it"):
        if (path / RECORD).exists():
            found = read_record(path)
            _check_same(path, found, record, restart)
            if not restart:
                record = _with_runs(record, found)
        ledger = Ledger(path, record)
        ledger._write()
        yield ledger


def _arm(arm: ArmPlan, registry: Registry) -> ArmRecord:
    return ArmRecord(
        name=arm.name,
        model=dump(arm.model, registry),
        train=arm.train.model_dump(mode="json"),
        account=dict(arm.account),
        turned=dict(arm.turned),
        mismatch=dict(arm.mismatch),
    )


def _with_runs(record: ExperimentRecord, found: ExperimentRecord) -> ExperimentRecord:
    """The new record with the runs of the one before, whose arms are the same."""
    before = {arm.name: arm for arm in found.arms}
    arms = tuple(
        arm.model_copy(update={name: getattr(before[arm.name], name) for name in ("lr", "scouts", "runs")})
        for arm in record.arms
    )
    return record.model_copy(update={"arms": arms})


def _check_same(path: Path, found: ExperimentRecord, now: ExperimentRecord, restart: bool) -> None:
    """Raise InputError where what was begun in a folder can't be gone on with."""
    if found.identity != now.identity:
        raise InputError(
            f"{path}: holds another experiment ('{found.name}', {found.identity[:8]}; this is '{now.name}',"
            f" {now.identity[:8]}); move it away or give another --out"
        )
    if restart or not any(run.state == "done" for arm in found.arms for run in (*arm.scouts, *arm.runs)):
        return
    if found.data_sha256 != now.data_sha256:
        raise changed(now.data, found.data_sha256, now.data_sha256)
    differs = [
        f"{name} {found.environment.get(name)!r}, now {value!r}"
        for name, value in now.environment.items()
        if found.environment.get(name) != value
    ]
    if differs:
        raise InputError(
            f"{path}: begun with {'; '.join(differs)}: this is part of what makes a run's bits, so every run would be"
            " done again. Go back to it (executor.threads sets the threads), give another --out, or --restart"
        )
