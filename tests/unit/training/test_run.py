"""Run folders: resume bit for bit, signals, full disks, done and changed runs."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blockzoo.checkpoints import from_pretrained
from blockzoo.errors import CheckpointError, InputError
from blockzoo.registry import Registry
from blockzoo.training import checkpoint
from blockzoo.training.folder import RunFolder
from blockzoo.training.interrupt import Interrupt, Interrupted
from blockzoo.training.loop import Silent
from blockzoo.training.run import Run


class StopsAt(Silent):
    """A reporter that presses Ctrl-C when a number of tokens was seen."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def step(self, tokens: int, loss: float | None) -> None:
        if tokens == self.tokens:
            os.kill(os.getpid(), signal.SIGINT)


def timeless(folder: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in folder.metrics.read()]


def tensors(folder: RunFolder) -> dict[str, torch.Tensor]:
    latest = folder.checkpoints.latest()
    assert latest is not None
    weights = load_file(latest / "model.safetensors")
    return weights | load_file(latest / "optimizer.safetensors")


def equal(one: RunFolder, other: RunFolder) -> None:
    assert timeless(one) == timeless(other)
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    skipped = ("seconds", "tokens_per_second", "finished")
    results = [{k: v for k, v in (folder.result() or {}).items() if k not in skipped} for folder in (one, other)]
    assert results[0] == results[1]


@pytest.fixture
def undisturbed(new_run: Callable[..., Run]) -> RunFolder:
    return new_run("undisturbed").execute()


def test_a_run_that_was_interrupted_goes_on_bit_for_bit(new_run: Callable[..., Run], undisturbed: RunFolder) -> None:
    run = new_run(checkpoint_every=4)
    for step in (1, 5, 7):
        with pytest.raises(Interrupted, match=f"after step {step + 1} of 12"):
            run.execute(StopsAt(step * 64))  # pressed when the step was over, so the next one is the last
        assert run.folder.status() == {"state": "interrupted"}
        latest = run.folder.checkpoints.latest()
        assert latest is not None
        assert latest.name == f"step-{step + 1:08d}"
    equal(run.execute(), undisturbed)


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(new_run: Callable[..., Run], undisturbed: RunFolder) -> None:
    class Dies(Silent):
        def step(self, tokens: int, loss: float | None) -> None:
            if tokens == 9 * 64:
                raise SystemError("as if the machine went down")

    run = new_run(checkpoint_every=4)
    with pytest.raises(SystemError):
        run.execute(Dies())
    with run.folder.metrics.file.open("a") as file:
        file.write('{"step": 10, "lo')  # a line that was cut off
    equal(run.execute(), undisturbed)


def test_two_runs_are_equal_and_the_seeds_are_apart(new_run: Callable[..., Run], undisturbed: RunFolder) -> None:
    equal(new_run("again").execute(), undisturbed)
    losses = [line["loss"] for line in timeless(undisturbed) if "loss" in line]
    for seed in ("init", "data", "dropout"):
        other = timeless(new_run(seeds={seed: 1}).execute())
        assert [line["loss"] for line in other if "loss" in line] != losses


def test_metrics_have_a_line_for_each_step_and_evaluation(undisturbed: RunFolder) -> None:
    lines = timeless(undisturbed)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 13))
    assert [line["step"] for line in lines if "bits_per_byte" in line] == [5, 10, 12]
    assert set(lines[0]) == {"step", "tokens", "loss", "grad_norm", "lr", "balance_loss"}
    result = undisturbed.result()
    assert result is not None
    assert result["bits_per_byte"] == lines[-1]["bits_per_byte"]
    assert result["tokens"] == 12 * 64


def test_a_finished_run_is_skipped_and_a_changed_one_is_another(new_run: Callable[..., Run]) -> None:
    run = new_run(steps=3, schedule={})
    folder = run.execute()
    before = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*") if file.name != "lock"}
    assert run.execute() == folder
    assert {file: file.stat().st_mtime_ns for file in folder.path.rglob("*") if file.name != "lock"} == before
    assert new_run(steps=3, schedule={}, log_every=1, checkpoint_every=2).folder == folder, "neither changes a number"
    assert new_run(steps=4, schedule={}).folder != folder
    assert new_run(steps=3, schedule={}, optimizer={"lr": 0.02}).folder != folder
    run.execute(restart=True)
    assert folder.result() is not None


def test_the_trained_model_is_a_checkpoint(new_run: Callable[..., Run], registry: Registry) -> None:
    folder = new_run(steps=3, schedule={}).execute()
    model = from_pretrained(folder.model, device="cpu", dtype=torch.float32, registry=registry)
    trained = tensors(folder)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("broken", ["model", "optimizer", "json"])
def test_a_full_disk_leaves_the_last_checkpoint(
    new_run: Callable[..., Run], undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    run = new_run(checkpoint_every=4)
    save = checkpoint.save_file

    def full(values: dict[str, torch.Tensor], path: Path) -> None:
        if "step-00000008" in str(path) and (path.stem == broken or broken == "json"):
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(values, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        run.execute()
    monkeypatch.undo()
    assert [entry.name for entry in (run.folder.path / "checkpoints").iterdir()] == ["step-00000004"]
    assert run.folder.status()["state"] == "failed"
    equal(run.execute(), undisturbed)


def test_a_full_disk_while_writing_metrics_is_said(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    opened = Path.open

    def full(self: Path, mode: str = "r", **options: Any) -> Any:
        if self.name == "metrics.jsonl" and mode == "a":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match="can't write metrics: No space left on device"):
        run.execute()


@pytest.mark.parametrize("damage", ["truncated", "missing", "not json"])
def test_a_damaged_checkpoint_is_named(new_run: Callable[..., Run], damage: str) -> None:
    run = new_run()
    with pytest.raises(Interrupted):
        run.execute(StopsAt(4 * 64))
    latest = run.folder.checkpoints.latest()
    assert latest is not None
    if damage == "truncated":
        os.truncate(latest / "model.safetensors", 1000)
    elif damage == "missing":
        (latest / "optimizer.safetensors").unlink()
    else:
        (latest / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"step-00000005: damaged checkpoint .*--restart"):
        run.execute()
    assert run.execute(restart=True).status()["state"] == "done"


def test_two_processes_do_not_share_a_run(new_run: Callable[..., Run]) -> None:
    run = new_run()
    with run.folder.locked(), pytest.raises(InputError, match="another process"):
        run.execute()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 17}, "train.block is 17, tiny's context_length 16"),
        ({"device": "warp"}, "device 'warp' can't be used here"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    new_run: Callable[..., Run], changes: dict[str, Any], message: str
) -> None:
    run = new_run(**changes)
    with pytest.raises(InputError, match=message):
        run.execute()
    assert not run.out.exists()


@pytest.fixture
def default_handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("default_handlers")
def test_the_first_signal_asks_and_the_second_stops() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_no_handler_is_set() -> None:
    found: list[bool] = []

    def work() -> None:
        with Interrupt() as interrupt:
            found.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_ctrl_c_on_the_command_line_saves_and_the_same_command_goes_on(text: Path, tmp_path: Path) -> None:
    from .conftest import MODEL

    model = tmp_path / "tiny.yaml"
    model.write_text(json.dumps(MODEL))
    arguments = [
        sys.executable,
        "-m",
        "blockzoo",
        "train",
        str(model),
        "--data",
        str(text),
        "--out",
        str(tmp_path / "runs"),
    ]
    arguments += ["--set", "train.batch_size=4", "--steps", "100000"]
    environment = {**os.environ, "BLOCKZOO_PLUGINS": "", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/tiny-*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
        while not next(tmp_path.glob("runs/tiny-*/metrics.jsonl")).stat().st_size and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "it is saved" in errors
    (folder,) = (RunFolder(path) for path in tmp_path.glob("runs/tiny-*"))
    assert folder.status()["state"] == "interrupted"
    latest = folder.checkpoints.latest()
    assert latest is not None
    lines = folder.metrics.read()
    assert lines[-1]["step"] == int(latest.name.removeprefix("step-"))
