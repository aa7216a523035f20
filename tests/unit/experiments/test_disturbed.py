"""Sweeps that are killed, interrupted or run out of disk: what is there afterwards is what an undisturbed one makes."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockzoo.cli import main
from blockzoo.experiments.conduct import conduct
from blockzoo.experiments.plan import load_experiment, make_plan
from blockzoo.registry import Registry
from blockzoo.training.folder import RunFolder

from .conftest import EXPERIMENT, Here, same_runs, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
TRAIN = {"batch_size": 2, "block": 16, "eval": {"tokens": 64, "every": 100}, "log_every": 5}
PATIENCE = 120.0


@pytest.fixture
def sweep(experiment_file: Path) -> Callable[..., Path]:
    """The experiment's file: two arms, two workers."""

    def make(steps: int, every: int, **changes: Any) -> Path:
        return write(
            experiment_file,
            {
                **EXPERIMENT,
                **changes,
                "train": {**TRAIN, "steps": steps, "checkpoint_every": every},
                "executor": {"workers": 2, "threads": 1, "retries": 3},
            },
        )

    return make


@pytest.fixture
def undisturbed(registry: Registry) -> Callable[[Path, Path], None]:
    def make(file: Path, out: Path) -> None:
        conduct(make_plan(load_experiment(file), file.parent, out, registry=registry), Here(), registry=registry)

    return make


def command(file: Path, out: Path) -> list[str]:
    return ["compare", str(file), "--out", str(out), "--json"]


def start(file: Path, out: Path, **options: Any) -> subprocess.Popen[str]:
    """``blockzoo compare`` in a process group of its own."""
    environment = {**os.environ, "BLOCKZOO_PLUGINS": "none"}
    return subprocess.Popen(
        [sys.executable, "-m", "blockzoo", *command(file, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **options,
    )


def descendants(pid: int) -> list[int]:
    """All processes below one, from the list that the kernel keeps of each one's children."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found


def training(out: Path) -> bool:
    """A run is under way that has written metrics."""
    folders = [RunFolder(path.parent) for path in out.glob("*/metrics.jsonl")]
    return any(folder.status()["state"] == "running" and folder.metrics.read() for folder in folders)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def killed(process: subprocess.Popen[str], draw: random.Random) -> bool:
    """Kill the conductor or one of its processes; False where it had ended before."""
    victims = [process.pid] if draw.random() < 0.25 else descendants(process.pid)
    if process.poll() is not None or not victims:
        return False
    try:
        os.kill(draw.choice(victims), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_at_random(file: Path, out: Path, kills: int, draw: random.Random, pause: float) -> int:
    """Conduct a sweep to its end, killing processes of it up to ``kills`` times; how many were killed."""
    done = 0
    for _ in range(10 + 10 * kills):
        process = start(file, out)
        while done < kills and process.poll() is None:
            wait_until(lambda: training(out), process)
            time.sleep(draw.uniform(0, pause))
            done += killed(process, draw)
        _, errors = process.communicate(timeout=PATIENCE)
        if process.returncode == 0:
            return done
        assert process.returncode in (-signal.SIGKILL, 1), errors
        assert "Traceback" not in errors
    raise AssertionError("the sweep never ended")


def test_a_sweep_with_kills_is_the_undisturbed_one(
    sweep: Callable[..., Path], undisturbed: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    file = sweep(steps=300, every=40)
    assert kill_at_random(file, tmp_path / "killed", 3, random.Random(5), pause=0.2) >= 1
    undisturbed(file, tmp_path / "undisturbed")
    same_runs(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_twenty_kills_at_random_moments(
    sweep: Callable[..., Path], undisturbed: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    file, draw, kills, sweeps = sweep(steps=800, every=50, seeds=[0, 1]), random.Random(1), 0, 0
    undisturbed(file, tmp_path / "undisturbed")
    while kills < 20:
        sweeps += 1
        kills += kill_at_random(file, tmp_path / f"killed-{sweeps}", 20, draw, pause=1.0)
        same_runs(tmp_path / f"killed-{sweeps}", tmp_path / "undisturbed")
    print(f"{kills} kills over {sweeps} sweeps")


def test_ctrl_c_to_the_process_group_saves_and_the_same_command_goes_on(
    sweep: Callable[..., Path], undisturbed: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    file, out = sweep(steps=200, every=50), tmp_path / "stopped"
    process = start(file, out)
    wait_until(lambda: training(out), process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "what ran is saved" in errors
    assert "Traceback" not in errors
    states = {RunFolder(file.parent).status()["state"] for file in out.glob("*/status.json")}
    assert states <= {"interrupted", "done"}
    assert "interrupted" in states
    assert main(command(file, out)) == 0
    undisturbed(file, tmp_path / "undisturbed")
    same_runs(out, tmp_path / "undisturbed")


def test_a_disk_that_fills_up_fails_the_runs_and_loses_none(
    sweep: Callable[..., Path], undisturbed: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: metrics outgrow it long after checkpoints were written."""
    file = sweep(steps=300, every=100, arms={"narrow": {"set": {"d_model": 8}}})
    out, limit = tmp_path / "full", 45_000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(file, out, preexec_fn=small_files)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert "metrics.jsonl: can't write metrics: File too large" in errors
    assert "1 of 1 runs failed" in errors
    assert all(RunFolder(run.parent).checkpoints.latest() for run in out.glob("*/run.json"))
    assert main(command(file, out)) == 0
    undisturbed(file, tmp_path / "undisturbed")
    same_runs(out, tmp_path / "undisturbed")
