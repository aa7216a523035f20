"""A run: one model, one recipe, one text, and the folder that holds all of it.

The folder's name is the hash of everything that decides the numbers, so the same run is found again: a finished one is
skipped, an interrupted one goes on bit for bit, a changed one gets another folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from blockzoo import building
from blockzoo.checkpoints import save_pretrained
from blockzoo.checkpoints.atomic import write_file
from blockzoo.config import digest, dump
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, InputError, RunError
from blockzoo.registry import Registry
from blockzoo.training.checkpoint import Checkpoints
from blockzoo.training.config import TrainConfig
from blockzoo.training.data import Dataset
from blockzoo.training.interrupt import Interrupt, Interrupted
from blockzoo.training.loop import Reporter, Silent, Training, run_loop
from blockzoo.training.metrics import Metrics

FORMAT = 1
State = Literal["new", "running", "interrupted", "failed", "done"]


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: the truth about it. Results are read from here, never from logs.

    ``run.json`` what was asked for; ``status.json`` how far it is; ``metrics.jsonl`` a line a step; ``checkpoints/`` to
    go on from; ``model/`` the trained model; ``result.json`` the figures.
    """

    path: Path

    @property
    def model(self) -> Path:
        """The trained model, as ``from_pretrained`` reads it."""
        return self.path / "model"

    @property
    def metrics(self) -> Metrics:
        return Metrics(self.path / "metrics.jsonl")

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints")

    def status(self) -> dict[str, Any]:
        """``state`` and, where it failed or stopped, ``error``."""
        return self.read("status.json") or {"state": "new"}

    def result(self) -> dict[str, Any] | None:
        """The figures of a finished run."""
        return self.read("result.json")

    def read(self, name: str) -> dict[str, Any] | None:
        """One of the folder's JSON files, None where it isn't there. Raises CheckpointError for a damaged one."""
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: can't read it ({error}); delete {self.path} to start again") from error

    def set_status(self, state: State, error: str | None = None) -> None:
        self.write("status.json", {"state": state, **({"error": error} if error else {})})

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write one of the folder's JSON files whole. Raises CheckpointError for what the file system refuses."""
        write_file(self.path / name, json.dumps(value, indent=1) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in this folder. Raises InputError where another process is at work in it; a dead one's lock is void."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"{self.path}: another process trains this run; wait for it or stop it") from error
            yield


@dataclass(frozen=True)
class Run:
    """Everything that decides the numbers of a run, and where runs are kept."""

    model: ModelConfig
    train: TrainConfig
    data: Dataset
    out: Path
    registry: Registry
    tokenizer: str

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed. Left out: how often metrics and checkpoints are written, which changes no number."""
        return {
            "format": FORMAT,
            "model": digest(self.model, self.registry),
            "train": self.train.model_dump(mode="json", exclude={"log_every", "checkpoint_every"}),
            "data": self.data.sha256,
            "tokenizer": self.tokenizer,
            "environment": environment(self.train.device),
        }

    @property
    def folder(self) -> RunFolder:
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model.name).strip(".-") or "model"
        return RunFolder(self.out / f"{name}-{digest[:12]}")

    def check(self) -> None:
        """Raise InputError for a model, text and recipe that don't fit each other."""
        if self.train.block > self.model.context_length:
            raise InputError(
                f"train.block is {self.train.block}, {self.model.name}'s context_length {self.model.context_length}:"
                " shorten the block or lengthen the context"
            )
        if len(self.data.token_lengths) > self.model.vocab_size:
            raise InputError(
                f"the tokenizer '{self.tokenizer}' has {len(self.data.token_lengths)} tokens, {self.model.name} a"
                f" vocabulary of {self.model.vocab_size}: set vocab_size, or name another tokenizer"
            )
        self.data.check(self.train.block)
        building.check_device(self.train.device)

    def execute(self, reporter: Reporter | None = None, *, restart: bool = False) -> RunFolder:
        """Train to the end, from wherever the run stands; a finished one is left as it is.

        Raises RunError for a run that failed (its folder says why), Interrupted for one that was stopped and saved.
        """
        self.check()
        folder, reporter = self.folder, Silent() if reporter is None else reporter
        with folder.locked():
            if restart:
                clear(folder)
            if folder.status()["state"] == "done":
                return folder
            folder.write("run.json", {**self.identity, "config": dump(self.model, self.registry)})
            folder.set_status("running")
            try:
                self._train(folder, reporter)
            except (Interrupted, KeyboardInterrupt):
                folder.set_status("interrupted")
                raise
            except Exception as error:
                with contextlib.suppress(CheckpointError):  # a full disk must not hide what went wrong
                    folder.set_status("failed", f"{type(error).__name__}: {error}")
                if isinstance(error, torch.OutOfMemoryError):
                    raise RunError(
                        f"out of memory on {self.train.device}: lower train.batch_size, raise accumulation"
                    ) from error
                raise
        return folder

    def _train(self, folder: RunFolder, reporter: Reporter) -> None:
        train = self.train
        model = building.build(
            self.model, registry=self.registry, device=train.device, seed=train.seeds.init, trainable=True
        )
        training = Training(model, train, self.data)
        training.restore(folder.checkpoints)
        folder.metrics.truncate(training.step)
        reporter.start(
            self.model.name, train.total_steps * train.tokens_per_step, training.step * train.tokens_per_step
        )
        try:
            with Interrupt() as interrupt:
                bits = run_loop(training, folder.metrics, folder.checkpoints, reporter, interrupt)
        finally:
            reporter.finish()
        shutil.rmtree(folder.model, ignore_errors=True)
        save_pretrained(model, folder.model, layout="native", registry=self.registry)
        folder.write("result.json", self._result(folder, bits))
        folder.set_status("done")

    def _result(self, folder: RunFolder, bits: float) -> dict[str, Any]:
        steps = [line for line in folder.metrics.read() if "loss" in line]
        seconds = sum(line["seconds"] for line in steps)
        tail = steps[-max(1, len(steps) // 20) :]
        return {
            "bits_per_byte": bits,
            "train_loss": sum(line["loss"] for line in tail) / len(tail),
            "steps": len(steps),
            "tokens": steps[-1]["tokens"],
            "seconds": seconds,
            "tokens_per_second": steps[-1]["tokens"] / seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def clear(folder: RunFolder) -> None:
    """Empty a run folder, its lock apart."""
    for entry in folder.path.iterdir():
        if entry.name != "lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def environment(device: str) -> dict[str, Any]:
    """What else decides the bits of a run."""
    cuda = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else None
    return {
        "blockzoo": version("blockzoo"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": cuda or f"{device} {torch.backends.cpu.get_cpu_capability()}",
    }


def open_run(path: Path) -> RunFolder | None:
    """The run folder at a path, None where there is none."""
    return RunFolder(path) if (path / "run.json").is_file() else None
