"""Conducting: scouting before verdicts, what is skipped and tried again, and folders that hold something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockzoo.errors import CheckpointError, InputError
from blockzoo.experiments.arm_plan import ExperimentPlan, RunPlan
from blockzoo.experiments.conduct import Unwatched, conduct
from blockzoo.experiments.ledger import experiment_folder, identity
from blockzoo.experiments.plan import load_experiment, make_plan
from blockzoo.experiments.reading import read_record
from blockzoo.experiments.record import RECORD, ArmRecord, ExperimentRecord
from blockzoo.experiments.worker import RunEnd
from blockzoo.registry import Registry
from blockzoo.training import checkpoint
from blockzoo.training.folder import RunFolder
from blockzoo.training.lock import BusyError, alone

from .conftest import EXPERIMENT, Here, same_runs, write

Planner = Callable[..., ExperimentPlan]
GRID = {"type": "grid", "points": [0.001, 0.01, 10.0], "extend": 0, "seeds": [7]}


class Seen(Unwatched):
    """What a watcher was told."""

    def __init__(self) -> None:
        self.planned_runs: list[str] = []
        self.ended_runs: list[tuple[str, str, bool]] = []
        self.remarks: list[str] = []

    def planned(self, plan: RunPlan, folder: RunFolder) -> None:
        self.planned_runs.append(plan.label)

    def ended(self, plan: RunPlan, folder: RunFolder, end: RunEnd, *, before: bool) -> None:
        self.ended_runs.append((plan.label, end.state, before))

    def remark(self, text: str) -> None:
        self.remarks.append(text)


@pytest.fixture
def plan(experiment_file: Path, registry: Registry, tmp_path: Path) -> Planner:
    """The plan of the little experiment with overrides by dotted key."""

    def make(out: str = "runs", **overrides: Any) -> ExperimentPlan:
        experiment = load_experiment(experiment_file, {k.replace("__", "."): v for k, v in overrides.items()})
        return make_plan(experiment, experiment_file.parent, tmp_path / out, registry=registry)

    return make


def arm(record: ExperimentRecord, name: str) -> ArmRecord:
    return next(one for one in record.arms if one.name == name)


def diverging(plan: ExperimentPlan, name: str) -> ExperimentPlan:
    """The same experiment with an arm whose loss becomes no number."""
    arms = []
    for one in plan.arms:
        optimizer = one.train.optimizer.model_copy(update={"lr": 1e9, "clip": None})
        train = one.train.model_copy(update={"optimizer": optimizer, "steps": 40})
        arms.append(replace(one, train=train) if one.name == name else one)
    return replace(plan, arms=tuple(arms))


def test_the_record_names_every_run_and_nothing_is_done_twice(plan: Planner, registry: Registry) -> None:
    first, again = Here(), Here()
    folder = conduct(plan(seeds=[3, 4]), first, registry=registry, command="blockzoo compare little.yaml")
    record = read_record(folder)
    assert folder == experiment_folder(plan(seeds=[3, 4]), registry)
    assert [job.plan.label for job in first.jobs] == ["plain, seed 3", "wide, seed 3", "plain, seed 4", "wide, seed 4"]
    for one in record.arms:
        assert [(run.seed, run.state) for run in one.runs] == [(3, "done"), (4, "done")]
        assert all((folder.parent / run.folder / "result.json").is_file() for run in one.runs)
        assert one.lr == 1e-3
    assert (record.metric, record.command, record.policy) == ("bits_per_byte", "blockzoo compare little.yaml", "fixed")
    seen = Seen()
    assert conduct(plan(seeds=[3, 4]), again, registry=registry, watch=seen) == folder
    assert not again.jobs
    assert {(state, before) for _, state, before in seen.ended_runs} == {("done", True)}
    assert read_record(folder).arms == record.arms


def test_restart_does_everything_again(plan: Planner, registry: Registry) -> None:
    conduct(plan(), Here(), registry=registry)
    again = Here()
    conduct(plan(), again, registry=registry, restart=True)
    assert len(again.jobs) == 2


def test_an_arm_that_diverges_stops_no_other_and_is_tried_again(plan: Planner, registry: Registry) -> None:
    wrong, seen, again = diverging(plan(), "plain"), Seen(), Here()
    folder = conduct(wrong, Here(), registry=registry, watch=seen)
    record = read_record(folder)
    (run,) = arm(record, "plain").runs
    assert run.state == "failed"
    assert "training diverged" in str(run.error)
    assert arm(record, "wide").runs[0].state == "done"
    conduct(wrong, again, registry=registry)
    assert [job.plan.arm for job in again.jobs] == ["plain"]


def test_scouts_find_each_arms_rate_before_its_verdict_runs(plan: Planner, registry: Registry) -> None:
    executor, seen = Here(), Seen()
    asked = plan(learning_rate=GRID, train__steps=20, seeds=[0, 1])
    record = read_record(conduct(asked, executor, registry=registry, watch=seen))
    for one in record.arms:
        assert [(run.lr, run.seed) for run in one.scouts] == [(0.001, 7), (0.01, 7), (10.0, 7)]
        assert one.lr == 0.01
        assert [(run.lr, run.seed) for run in one.runs] == [(0.01, 0), (0.01, 1)]
        assert one.problem is None
    assert len(executor.jobs) == 2 * (3 + 2)
    assert "plain: learning rate 0.01" in seen.remarks
    scout = RunFolder(asked.out / record.arms[0].scouts[0].folder)
    assert scout.read("measurements.json") is None, "nobody asks what a scout writes"


def test_an_arm_without_an_optimum_gets_no_verdict_runs(plan: Planner, registry: Registry) -> None:
    grid = {**GRID, "points": [1e-6, 1e-5, 1e-4]}
    record = read_record(conduct(plan(learning_rate=grid), Here(), registry=registry))
    for one in record.arms:
        assert one.lr is None
        assert not one.runs
        assert "the highest of those tried" in str(one.problem)


def test_a_scout_that_fails_for_another_reason_is_no_divergence(
    plan: Planner, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockzoo.experiments.worker.execute", lambda run, plan: exec("raise MemoryError('too big')"))
    record = read_record(conduct(plan(learning_rate=GRID), Here(), registry=registry))
    assert "a scouting run failed (plain, scouting 0.001): MemoryError: too big" in str(record.arms[0].problem)


def test_transferred_rates_are_scouted_on_the_base_alone(plan: Planner, registry: Registry) -> None:
    executor = Here()
    policy = {"type": "completep", "base": "wide", "points": [0.001, 0.01, 10.0], "seeds": [7]}
    record = read_record(conduct(plan(learning_rate=policy, train__steps=20), executor, registry=registry))
    assert [job.plan.arm for job in executor.jobs if job.plan.purpose == "scout"] == ["wide"] * 3
    assert [one.lr for one in record.arms] == [0.01, 0.01]
    hopeless = {**policy, "points": [1e-6, 1e-5], "extend": 0}
    record = read_record(conduct(plan(learning_rate=hopeless, train__steps=20), Here(), registry=registry))
    assert "is that of arm 'wide', which has none" in str(arm(record, "plain").problem)
    assert "the highest" in str(arm(record, "wide").problem)


def test_spelling_makes_no_other_experiment(plan: Planner, experiment_file: Path, registry: Registry) -> None:
    before = identity(plan(), registry)
    spelt = {
        **EXPERIMENT,
        "arms": {"plain": {"set": {"layers.ffn.d_ff": 32}}, "wide": {"set": {"layers.ffn.d_ff": 33}}},
    }
    write(experiment_file, spelt)
    assert identity(plan(), registry) == before
    assert identity(plan(executor__workers=2, statistics__level=0.01), registry) == before, "no run depends on them"
    assert identity(plan(train__steps=5), registry) != before
    assert identity(plan(seeds=[1]), registry) != before


def test_two_experiments_do_not_share_a_folder(plan: Planner, registry: Registry) -> None:
    folder = conduct(plan(), Here(), registry=registry)
    other = plan(train__steps=5)
    shutil.copytree(folder, experiment_folder(other, registry))
    executor = Here()
    with pytest.raises(InputError, match=r"holds another experiment .*--out"):
        conduct(other, executor, registry=registry)
    assert not executor.jobs
    assert read_record(experiment_folder(other, registry)) == read_record(folder), "nothing is lost"


def test_two_conductors_do_not_share_a_folder(plan: Planner, registry: Registry) -> None:
    with alone(experiment_folder(plan(), registry), "busy"), pytest.raises(BusyError, match="another process conducts"):
        conduct(plan(), Here(), registry=registry)


def test_text_that_changed_is_refused_with_both_hashes(
    plan: Planner, experiment_file: Path, registry: Registry
) -> None:
    folder = conduct(plan(), Here(), registry=registry)
    before = read_record(folder)
    (experiment_file.parent / "words.txt").write_text("something else entirely\n" * 90)
    with pytest.raises(InputError, match=rf"its hash was {before.data_sha256[:16]} and is [0-9a-f]{{16}}"):
        conduct(plan(), Here(), registry=registry)
    assert read_record(folder) == before
    conduct(plan(), Here(), registry=registry, restart=True)
    assert read_record(folder).data_sha256 != before.data_sha256


def test_another_number_of_threads_is_refused(plan: Planner, registry: Registry) -> None:
    folder = conduct(plan(), Here(), registry=registry)
    wider = Here()
    wider.threads = 2
    with pytest.raises(InputError, match=r"begun with threads 1, now 2.*executor.threads"):
        conduct(plan(), wider, registry=registry)
    assert read_record(folder).environment["threads"] == 1


def test_a_damaged_record_is_named_and_its_runs_are_kept(plan: Planner, registry: Registry) -> None:
    folder = conduct(plan(), Here(), registry=registry)
    (folder / RECORD).write_text(json.dumps({"format": 1})[:-2])
    with pytest.raises(CheckpointError, match=r"experiment.json"):
        conduct(plan(), Here(), registry=registry)
    (folder / RECORD).unlink()
    again = Here()
    conduct(plan(), again, registry=registry)
    assert not again.jobs


def test_a_damaged_run_fails_alone(plan: Planner, registry: Registry) -> None:
    record = read_record(conduct(plan(), Here(), registry=registry))
    (plan().out / arm(record, "plain").runs[0].folder / "status.json").write_text("{")
    record = read_record(conduct(plan(), Here(), registry=registry))
    assert "delete" in str(arm(record, "plain").runs[0].error)
    assert arm(record, "wide").runs[0].state == "done"


def test_a_full_disk_loses_no_run(
    plan: Planner, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = {"train__steps": 12, "train__checkpoint_every": 4}
    save = checkpoint.save_file

    def no_space(values: dict[str, Any], path: Path) -> None:
        if "step-00000008" in str(path):
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(values, path)

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    record = read_record(conduct(plan(**full), Here(), registry=registry))
    assert all("No space left on device" in str(one.runs[0].error) for one in record.arms)
    monkeypatch.undo()
    record = read_record(conduct(plan(**full), Here(), registry=registry))
    assert [one.runs[0].state for one in record.arms] == ["done", "done"]
    conduct(plan("undisturbed", **full), Here(), registry=registry)
    same_runs(tmp_path / "runs", tmp_path / "undisturbed")
