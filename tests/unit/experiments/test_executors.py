"""Executors: processes, deaths, Ctrl-C; and that no number depends on which one it was."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from blockzoo.errors import InputError
from blockzoo.experiments.arm_plan import RunPlan
from blockzoo.experiments.config import ExecutorConfig
from blockzoo.experiments.executors import Job, make_executor, threads_each
from blockzoo.experiments.executors.local import LocalExecutor
from blockzoo.experiments.plan import load_experiment, make_plan
from blockzoo.experiments.worker import perform
from blockzoo.registry import Registry
from blockzoo.training.folder import RunFolder
from blockzoo.training.interrupt import Interrupted

from .conftest import same_runs, timeless

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray isn't installed: pip install 'blockzoo[cluster]'")
LONG = {"train.steps": 500, "train.checkpoint_every": 50, "train.log_every": 5}
PATIENCE = 60.0


@pytest.fixture
def runs(experiment_file: Path, registry: Registry) -> Callable[..., tuple[RunPlan, ...]]:
    def make(out: Path, **overrides: Any) -> tuple[RunPlan, ...]:
        experiment = load_experiment(experiment_file, overrides)
        return make_plan(experiment, experiment_file.parent, out, registry=registry).verdict_runs()

    return make


def folder_of(job: Job) -> RunFolder:
    """The only folder of the job's arm."""
    return next(iter(folders(job)))


def folders(job: Job) -> list[RunFolder]:
    return [RunFolder(path) for path in job.plan.out.glob(f"{job.plan.arm}-*") if (path / "run.json").exists()]


def trains(job: Job, steps: int) -> bool:
    return any(len(folder.metrics.read()) > steps for folder in folders(job) if folder.metrics.file.exists())


def when(condition: Callable[[], bool], do: Callable[[], object]) -> threading.Thread:
    """Do something from another thread as soon as a condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_runs() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def test_a_process_makes_the_same_run(runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path) -> None:
    ends = list(LocalExecutor(workers=2).run([Job(plan, 1) for plan in runs(tmp_path / "processes")]))
    assert [end.state for end in ends] == ["done", "done"]
    for plan in runs(tmp_path / "here"):
        assert perform(Job(plan, 1)).state == "done"
    same_runs(tmp_path / "processes", tmp_path / "here")
    environment = (RunFolder(Path(ends[0].folder or "")).read("run.json") or {})["environment"]
    assert environment["threads"] == 1


def test_a_run_that_fails_says_why_and_stops_no_other(runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path) -> None:
    plain, wide = runs(tmp_path)
    too_fast = plain.train.optimizer.model_copy(update={"lr": 1e9, "clip": None})
    diverges = replace(plain, train=plain.train.model_copy(update={"optimizer": too_fast, "steps": 40}))
    ends = {end.plan.arm: end for end in LocalExecutor().run([Job(diverges, 1), Job(wide, 1)])}
    assert (ends["plain"].state, ends["plain"].diverged) == ("failed", True)
    assert "training diverged" in str(ends["plain"].error)
    assert ends["wide"].state == "done"


def test_other_text_than_the_experiments_is_refused_with_both_hashes(
    runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path
) -> None:
    end = perform(Job(runs(tmp_path)[0], 1, "0123456789abcdef0123"))
    assert end.state == "failed"
    assert "its hash was 0123456789abcdef and is " in str(end.error)


def test_a_killed_run_is_started_again_from_its_checkpoint(
    runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path
) -> None:
    job = Job(runs(tmp_path / "killed", **LONG)[0], 1)
    killer = when(lambda: trains(job, 60), kill_runs)
    (end,) = LocalExecutor().run([job])
    killer.join()
    assert end.state == "done"
    undisturbed = perform(Job(runs(tmp_path / "undisturbed", **LONG)[0], 1))
    assert timeless(folder_of(job)) == timeless(RunFolder(Path(undisturbed.folder or "")))


def test_a_run_that_dies_every_time_fails_with_the_signal(
    runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path
) -> None:
    job = Job(runs(tmp_path, **LONG)[0], 1)
    killer = when(lambda: trains(job, 1), kill_runs)
    (end,) = LocalExecutor(retries=0).run([job])
    killer.join()
    assert end.state == "failed"
    assert "was killed (SIGKILL); out of memory?" in str(end.error)


def test_ctrl_c_saves_what_runs_and_starts_no_more(runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path) -> None:
    jobs = [Job(plan, 1) for plan in runs(tmp_path / "stopped", **LONG)]
    presser = when(lambda: trains(jobs[0], 20), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="the same command goes on"):
        list(LocalExecutor().run(jobs))  # one at a time: the second never begins
    presser.join()
    folder = folder_of(jobs[0])
    assert folder.status() == {"state": "interrupted"}
    assert folder.checkpoints.latest() is not None
    assert not list((tmp_path / "stopped").glob("wide-*"))


def test_the_second_ctrl_c_stops_at_once(runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path) -> None:
    job = Job(runs(tmp_path, **{**LONG, "train.steps": 10**6})[0], 1)

    def twice() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGSTOP)  # a step that takes very long
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    presser = when(lambda: trains(job, 20), twice)
    with pytest.raises(KeyboardInterrupt):
        list(LocalExecutor().run([job]))
    presser.join()
    assert not multiprocessing.active_children()


def test_who_stops_listening_stops_the_runs(runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path) -> None:
    plain, wide = runs(tmp_path)
    endless = replace(wide, train=wide.train.model_copy(update={"steps": 10**6, "log_every": 5}))
    with closing(LocalExecutor(workers=2).run([Job(plain, 1), Job(endless, 1)])) as ends:
        assert next(iter(ends)).plan.arm == "plain"
        deadline = time.monotonic() + PATIENCE
        while not trains(Job(endless, 1), 5) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not multiprocessing.active_children()
    assert folder_of(Job(endless, 1)).status() == {"state": "interrupted"}


def test_threads_are_shared_among_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert threads_each(ExecutorConfig(workers=3)) == 2
    assert threads_each(ExecutorConfig(workers=16)) == 1
    assert threads_each(ExecutorConfig(workers=3, threads=5)) == 5


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'blockzoo\[cluster\]'"):
        make_executor(ExecutorConfig(type="ray"))


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_makes_the_same_runs_and_starts_a_killed_one_again(
    runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path
) -> None:
    jobs = [Job(plan, 1) for plan in runs(tmp_path / "ray", **LONG)]
    with closing(make_executor(ExecutorConfig(type="ray", workers=2, threads=1))) as ray:
        killer = when(lambda: trains(jobs[0], 60), lambda: kill_a_ray_worker(jobs[0].plan.label))
        ends = list(ray.run(jobs))
        killer.join()
    assert sorted((end.plan.arm, end.state) for end in ends) == [("plain", "done"), ("wide", "done")]
    assert killed, "no worker was found to kill"
    local = [Job(plan, 1) for plan in runs(tmp_path / "local", **LONG)]
    assert [end.state for end in LocalExecutor(workers=2).run(local)] == ["done", "done"]
    same_runs(tmp_path / "ray", tmp_path / "local")


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ctrl_c_reaches_the_runs_on_ray(runs: Callable[..., tuple[RunPlan, ...]], tmp_path: Path) -> None:
    job = Job(runs(tmp_path, **{**LONG, "train.steps": 10**6})[0], 1)
    with closing(make_executor(ExecutorConfig(type="ray", threads=1))) as ray:
        presser = when(lambda: trains(job, 20), lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted):
            list(ray.run([job]))
        presser.join()
    assert folder_of(job).status() == {"state": "interrupted"}
    assert folder_of(job).checkpoints.latest() is not None


killed: list[int] = []


def kill_a_ray_worker(label: str) -> None:
    """Ray names its worker processes after their tasks: ``ray::<name>``."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_text().startswith(f"ray::{label}"):
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
