"""Two processes, as torchrun starts them on a CPU: the same figures as one, and they end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blockzoo.checkpoints import from_pretrained
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.registry import Registry
from blockzoo.training.config import TrainConfig
from blockzoo.training.data import Dataset
from blockzoo.training.distributed import ALONE, World, join, started_by_torchrun
from blockzoo.training.folder import RunFolder
from blockzoo.training.interrupt import Interrupt, Interrupted
from blockzoo.training.run import Run
from blockzoo.training.sharding import parallel_of
from tests.warm import Warm

from .conftest import MODEL, TRAIN
from .together import Stops

CALM = {
    **MODEL,
    "embedding": {"tied": True, "position": {"type": "learned"}},
    "residual": {"type": "pre_norm"},
    "blocks": {
        "attention": {"type": "gqa", "n_heads": 2, "bias": True, "sinks": True},
        "experts": {**MODEL["blocks"]["experts"], "balance_loss": 0.0},  # type: ignore[index]
    },
}
"""Without dropout, which each process draws for itself, and balance, which is of what a process sees."""
Together = Callable[[list[dict[str, Any]]], "subprocess.CompletedProcess[str]"]
DRIVER = Path(__file__).parent / "together.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
TORCHRUN += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]


def environment() -> dict[str, str]:
    """The same number of threads, which is a part of a run's hash."""
    root = Path(__file__).resolve().parents[3]
    return {
        **os.environ,
        "BLOCKZOO_PLUGINS": "none",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": str(root),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


@pytest.fixture(scope="module")
def together(warm: Warm, folder: Path) -> Together:
    """torchrun's, of which only the processes that it starts have torch to import."""

    def run(specs: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        return warm.run([*TORCHRUN[1:], str(DRIVER), json.dumps(specs)], environment(), folder)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def alone(dataset: Dataset, registry: Registry, folder: Path) -> Callable[..., Run]:
    """The run of one process in a folder of its own."""

    def make(out: str, model: dict[str, Any] = CALM, **changes: Any) -> Run:
        train = TrainConfig.model_validate({**TRAIN, **changes})
        return Run(load_config(model, registry=registry), train, dataset, folder / out, registry, "bytes")

    return make


def interrupted(run: Run, step: int) -> None:
    with pytest.raises(Interrupted):
        run.execute(Stops(step * run.train.tokens_per_step))


def spec(text: Path, out: Path, **changes: Any) -> dict[str, Any]:
    train = {key: changes.pop(key) for key in list(changes) if key in TrainConfig.model_fields}
    return {"model": CALM, "train": {**TRAIN, **train}, "text": str(text), "out": str(out), **changes}


@pytest.fixture(scope="module")
def runs(together: Together, text: Path, folder: Path, alone: Callable[..., Run]) -> dict[str, RunFolder]:
    """By name: undisturbed ones of one and two processes, and those that changed from one to two or back."""
    wanted = [
        spec(text, folder / "ddp", parallel="ddp"),
        spec(text, folder / "fsdp", parallel="fsdp"),
        spec(text, folder / "accumulated", accumulation=2, batch_size=2),
        spec(text, folder / "from ddp", parallel="ddp", stops=4),
        spec(text, folder / "from fsdp", parallel="fsdp", stops=4),
        spec(text, folder / "to ddp", parallel="ddp"),
        spec(text, folder / "to fsdp", parallel="fsdp"),
    ]
    for name in ("to ddp", "to fsdp"):
        interrupted(alone(name), 4)
    done = together(wanted)
    assert done.returncode == 0, done.stderr
    found = {Path(one["out"]).name: alone(Path(one["out"]).name, **one["train"]).execute() for one in wanted}
    return {"one": alone("one").execute(), **found}


NAMES = ["ddp", "fsdp", "accumulated", "from ddp", "from fsdp", "to ddp", "to fsdp"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one_does(runs: dict[str, RunFolder], name: str) -> None:
    one, two = runs["one"].metrics.read(), runs[name].metrics.read()
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for before, after in zip(one, two, strict=True):
        assert before.keys() == after.keys()
        for key in before.keys() - {"seconds"}:
            assert after[key] == pytest.approx(before[key], rel=2e-4), (key, before["step"])


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_whole_and_equal(runs: dict[str, RunFolder], name: str, registry: Registry) -> None:
    """Weights and moments, to what rounding leaves of them after 12 steps of Adam."""
    paths = [runs[one].checkpoints.latest() for one in ("one", name)]
    for part in ("model", "optimizer"):
        one, two = (load_file(path / f"{part}.safetensors") for path in paths if path is not None)
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-2, atol=2e-3, msg=lambda m, key=key: f"{key}: {m}")
    model = from_pretrained(runs[name].model, device="cpu", dtype=torch.float32, registry=registry)
    weights = load_file(paths[1] / "model.safetensors")  # type: ignore[operator]
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())


def test_who_trained_is_on_record(runs: dict[str, RunFolder]) -> None:
    one, two = {"processes": 1, "parallel": "none"}, {"processes": 2, "parallel": "ddp"}
    expected = {
        "one": [{"from_step": 0, **one}],
        "ddp": [{"from_step": 0, **two}],
        "accumulated": [{"from_step": 0, **two}],
        "from ddp": [{"from_step": 0, **two}, {"from_step": 5, **one}],
        "to ddp": [{"from_step": 0, **one}, {"from_step": 5, **two}],
    }
    assert {name: runs[name].read("run.json")["worlds"] for name in expected} == expected  # type: ignore[index]


def test_one_that_fails_ends_all(together: Together, text: Path, folder: Path, alone: Callable[..., Run]) -> None:
    done = together([spec(text, folder / "breaks", breaks=True)])
    assert done.returncode != 0
    assert "ValueError: a bad shard" in done.stderr
    status = alone("breaks").folder.status()
    assert status == {"state": "failed", "error": "PeerFailed: process 1: ValueError: a bad shard"}


@pytest.mark.slow
def test_one_that_is_killed_ends_all_and_the_run_goes_on(
    together: Together, text: Path, folder: Path, alone: Callable[..., Run]
) -> None:
    done = together([spec(text, folder / "dies", dies=True, checkpoint_every=2)])
    assert done.returncode != 0
    run = alone("dies")
    assert run.folder.status()["state"] in ("failed", "running")
    assert run.execute().status() == {"state": "done"}


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_ctrl_c_saves_and_one_process_goes_on(text: Path, tmp_path: Path, parallel: str) -> None:
    """As in a terminal: everybody gets the signal, and torchrun passes its own on."""
    (tmp_path / "tiny.yaml").write_text(json.dumps(CALM))
    arguments = ["blockzoo", "train", "tiny.yaml", "--data", str(text), "--steps", "100000"]
    arguments += ["--set", "train.batch_size=4", "--set", f"train.parallel={parallel}", "--set", "train.log_every=1"]
    with subprocess.Popen(
        [*TORCHRUN, "-m", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not any(file.stat().st_size for file in tmp_path.glob("runs/tiny-*/metrics.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("it is saved") == 1, errors
    (folder,) = (RunFolder(path) for path in tmp_path.glob("runs/tiny-*"))
    assert folder.status() == {"state": "interrupted"}
    step = folder.checkpoints.latest_step()
    assert step > 0
    assert folder.metrics.read()[-1]["step"] == step


@pytest.mark.slow
def test_weights_that_train_quantized_are_split_too(
    together: Together, text: Path, folder: Path, alone: Callable[..., Run]
) -> None:
    """Roundings may fall to the other side, so curves are near and no more."""
    model = {**CALM, "quantizer": {"type": "int8", "group_size": 8}}
    one = alone("quantized one", model).execute().metrics.read()
    done = together([{**spec(text, folder / "quantized", parallel="fsdp"), "model": model}])
    assert done.returncode == 0, done.stderr
    two = alone("quantized", model).folder.metrics.read()
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.slow
def test_what_all_of_them_find_wrong_is_said_once(text: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(CALM))
    arguments = ["blockzoo", "train", "tiny.yaml", "--data", str(text), "--set", "train.parallel=none"]
    done = subprocess.run(
        [*TORCHRUN, "-m", *arguments],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("train.parallel is none: set train.parallel=ddp") == 1, done.stderr


# --- without other processes ---


def test_alone_nothing_is_shared() -> None:
    with join() as world:
        assert world is ALONE
    assert not ALONE.any(False)
    assert ALONE.from_first(lambda: 3) == 3
    assert ALONE.mean([{"loss": 1.0}]) == [{"loss": 1.0}]
    assert parallel_of(TrainConfig.model_validate({**TRAIN, "parallel": "fsdp"}), ALONE) == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": "none"}, "torchrun started 2 processes and train.parallel is none"),
        ({"batch_size": 3}, "a step has 3 sequences"),
    ],
)
def test_what_two_processes_cannot_share_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parallel_of(TrainConfig.model_validate({**TRAIN, **changes}), World(0, 2))


def test_each_process_takes_its_own_device() -> None:
    assert World(1, 2, local_rank=1).device("cuda") == "cuda:1"
    assert World(1, 2, local_rank=1).device("cpu") == "cpu"
    with pytest.raises(InputError, match="cuda:1, 2 processes train"):
        World(1, 2).device("cuda:1")


@pytest.mark.parametrize(("size", "message"), [("2", "RANK, .* not set"), ("two", "WORLD_SIZE is 'two'")])
def test_half_an_environment_is_said(monkeypatch: pytest.MonkeyPatch, size: str, message: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(InputError, match=message):
        started_by_torchrun()


def test_a_run_that_knows_nothing_of_torchrun_refuses_it(
    alone: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "",
        "MASTER_PORT": "",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="torchrun is for"):
        alone("refused").execute()


def test_a_signal_that_is_passed_on_is_no_second_one() -> None:
    with Interrupt(deaf=60) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
