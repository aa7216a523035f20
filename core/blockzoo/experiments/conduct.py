"""Conduct an experiment: scouting runs until each arm has its rate, then verdict runs, and the record of both.

Every run is a folder and the record names it, so that whatever stops the conductor, the same call goes on from there:
what is done is not done again, what was interrupted resumes, what failed is tried again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Protocol

from blockzoo.errors import BlockzooError, CheckpointError
from blockzoo.experiments.arm_plan import ArmPlan, ExperimentPlan, RunPlan
from blockzoo.experiments.config import CompletePRate
from blockzoo.experiments.executors import Executor
from blockzoo.experiments.ledger import Ledger, RunKey, key, open_ledger
from blockzoo.experiments.rates import Chosen, NoOptimum, Search, search
from blockzoo.experiments.record import RunRecord
from blockzoo.experiments.run import is_complete, make_run, make_source
from blockzoo.experiments.worker import Job, RunEnd, threads
from blockzoo.registry import Registry
from blockzoo.training.folder import RunFolder, clear
from blockzoo.training.run import environment
from blockzoo.training.source import Source


class Watch(Protocol):
    """Who watches an experiment."""

    def planned(self, plan: RunPlan, folder: RunFolder) -> None:
        """A run that is to come, or is done already."""
        ...

    def ended(self, plan: RunPlan, folder: RunFolder, end: RunEnd, *, before: bool) -> None:
        """A run is over; ``before``: it was done already when this process began."""
        ...

    def remark(self, text: str) -> None: ...


class Unwatched:
    """Nobody watches."""

    def planned(self, plan: RunPlan, folder: RunFolder) -> None: ...

    def ended(self, plan: RunPlan, folder: RunFolder, end: RunEnd, *, before: bool) -> None: ...

    def remark(self, text: str) -> None: ...


def conduct(
    plan: ExperimentPlan,
    executor: Executor,
    *,
    registry: Registry,
    watch: Watch | None = None,
    command: str = "",
    restart: bool = False,
) -> Path:
    """Do all that an experiment asks for and isn't done; the experiment's folder, with the record in it.

    A failed run stops no other: it is in the record. Raises what ``open_ledger`` raises, and Interrupted after Ctrl-C,
    when what ran is saved.
    """
    plan = _anywhere(plan)
    with threads(executor.threads), contextlib.ExitStack() as stack:  # folders are named by the threads too
        sources = _sources(plan, registry)
        here = environment(plan.experiment.train.device)
        opened = open_ledger(plan, sources, here, command=command, registry=registry, restart=restart)
        ledger = stack.enter_context(opened)
        conductor = _Conductor(plan, executor, ledger, sources, registry, watch or Unwatched(), restart)
        conductor.work()
        return ledger.path


@dataclass
class _Conductor:
    plan: ExperimentPlan
    executor: Executor
    ledger: Ledger
    sources: Mapping[str, Source]
    registry: Registry
    watch: Watch
    restart: bool
    rates: dict[str, float] = field(default_factory=dict)
    """Arm -> the rate of its verdict runs."""
    hopeless: set[str] = field(default_factory=set)
    """Arms without a rate, for good."""
    ends: dict[RunKey, RunEnd] = field(default_factory=dict)

    def work(self) -> None:
        """Rounds of whatever is due: one arm's verdict runs go beside another's scouts.

        Seed by seed over all arms, so that what is there when somebody stops can be compared.
        """
        policy = self.plan.experiment.learning_rate
        base = policy.base if isinstance(policy, CompletePRate) else None
        arms = sorted(self.plan.arms, key=lambda arm: arm.name != base)  # the others wait for its rate
        while due := [run for arm in arms for run in self._due(arm)]:
            self._round(sorted(due, key=lambda run: (run.purpose, run.seed)))

    # --- what is due ---

    def _due(self, arm: ArmPlan) -> Iterator[RunPlan]:
        if arm.name not in self.rates and arm.name not in self.hopeless:
            yield from self._scouts(arm)
        if (lr := self.rates.get(arm.name)) is not None:
            runs = [self.plan.run(arm, seed=seed, lr=lr, purpose="verdict") for seed in self.plan.seeds]
            yield from (run for run in runs if key(run) not in self.ends)

    def _scouts(self, arm: ArmPlan) -> Iterator[RunPlan]:
        """The scouting runs that an arm needs next; none where that settles its rate."""
        policy = self.plan.experiment.learning_rate
        own = arm.train.optimizer.lr
        looking = search(policy, own, lower_is_better=self.sources[arm.name].lower_is_better)
        if looking is None:
            self._settle(arm, own)
        elif isinstance(policy, CompletePRate) and arm.name != policy.base:
            base = self.plan.arm(policy.base)
            if base.name not in self.rates and base.name not in self.hopeless:
                return
            if base.name in self.rates:
                self._settle(arm, self.rates[base.name])
            else:
                self._give_up(arm, f"its learning rate is that of arm '{base.name}', which has none")
        else:
            yield from self._search(arm, looking)

    def _search(self, arm: ArmPlan, looking: Search) -> Iterator[RunPlan]:
        runs: dict[float, list[RunPlan]] = {}
        tried: dict[float, float | None] = {}
        while True:
            answer = looking.next(tried)
            if isinstance(answer, Chosen):
                return self._settle(arm, answer.lr)
            if isinstance(answer, NoOptimum):
                return self._give_up(arm, answer.reason)
            for lr in answer.points:
                runs[lr] = [self.plan.run(arm, seed=seed, lr=lr, purpose="scout") for seed in self.plan.scouting_seeds]
            if missing := [run for lr in answer.points for run in runs[lr] if key(run) not in self.ends]:
                yield from missing
                return None
            for lr in answer.points:
                ends = [self.ends[key(run)] for run in runs[lr]]
                if broken := next((end for end in ends if end.state != "done" and not end.diverged), None):
                    return self._give_up(arm, f"a scouting run failed ({broken.plan.label}): {broken.error}")
                tried[lr] = self._mean(arm, ends)

    def _mean(self, arm: ArmPlan, ends: Sequence[RunEnd]) -> float | None:
        """The metric over scouting seeds, None where a run diverged."""
        if any(end.diverged for end in ends):
            return None
        results = [RunFolder(Path(end.folder or "")).result() or {} for end in ends]
        mean = fmean(result[self.sources[arm.name].metric] for result in results)
        return mean if isfinite(mean) else None

    def _settle(self, arm: ArmPlan, lr: float) -> None:
        self.rates[arm.name] = lr
        self.ledger.note_rate(arm.name, lr)
        if self.plan.experiment.learning_rate.type != "fixed":
            self.watch.remark(f"{arm.name}: learning rate {lr:g}")

    def _give_up(self, arm: ArmPlan, problem: str) -> None:
        self.hopeless.add(arm.name)
        self.ledger.note_problem(arm.name, problem)
        self.watch.remark(f"{arm.name}: no verdict runs: {problem}")

    # --- doing it ---

    def _round(self, due: Sequence[RunPlan]) -> None:
        folders: dict[RunKey, RunFolder] = {}
        complete: dict[RunKey, bool] = {}
        for run in due:
            folder = make_run(run, registry=self.registry, source=self.sources[run.arm]).folder
            if self.restart and folder.path.is_dir():
                with folder.locked():
                    clear(folder)
            folders[key(run)] = folder
            with contextlib.suppress(CheckpointError):  # a damaged folder is said by the run itself
                complete[key(run)] = is_complete(folder, run)
            self.watch.planned(run, folder)
        left = {one: folder for one, folder in folders.items() if not complete.get(one)}
        self.ledger.note_runs({one: _planned(one, folder) for one, folder in left.items()})
        for run in due:
            if key(run) not in left:
                self._note(RunEnd(run, str(folders[key(run)].path), "done"), folders[key(run)], before=True)
        jobs = [Job(run, self.executor.threads, self.sources[run.arm].sha256) for run in due if key(run) in left]
        with contextlib.closing(self.executor.run(jobs)) as ends:
            for end in ends:
                self._note(end, folders[key(end.plan)], before=False)

    def _note(self, end: RunEnd, expected: RunFolder, *, before: bool) -> None:
        folder = expected if end.folder is None else RunFolder(Path(end.folder))
        if end.state == "failed" and end.folder is None and folder.path.is_dir():  # its process could not say so
            with contextlib.suppress(BlockzooError):
                folder.set_status("failed", end.error)
        self.ends[key(end.plan)] = end
        run = RunRecord(seed=end.plan.seed, lr=end.plan.lr, folder=folder.path.name, state=end.state, error=end.error)
        self.ledger.note_runs({key(end.plan): run})
        self.watch.ended(end.plan, folder, end, before=before)


def _planned(one: RunKey, folder: RunFolder) -> RunRecord:
    _, _, seed, lr = one
    return RunRecord(seed=seed, lr=lr, folder=folder.path.name)


def _anywhere(plan: ExperimentPlan) -> ExperimentPlan:
    """The same plan with absolute paths: its runs may be executed by processes with another working folder."""
    data = plan.data
    if data.path is not None:
        data = data.model_copy(update={"path": data.path.absolute()})
    return replace(plan, data=data, out=plan.out.absolute())


def _sources(plan: ExperimentPlan, registry: Registry) -> dict[str, Source]:
    """Arm -> its tokens, made here once, before runs ask for them at the same time."""
    made: dict[str, Source] = {}
    for arm in plan.arms:
        if arm.tokenizer not in made:
            run = plan.run(arm, seed=plan.seeds[0], lr=arm.train.optimizer.lr, purpose="verdict")
            made[arm.tokenizer] = make_source(run, registry=registry)
    return {arm.name: made[arm.tokenizer] for arm in plan.arms}
