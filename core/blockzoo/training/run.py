"""A run: one model, one recipe, one text, trained into a folder.

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
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from blockzoo import building
from blockzoo.checkpoints import save_pretrained
from blockzoo.config import digest, dump
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, InputError, RunError
from blockzoo.faults import explained
from blockzoo.registry import Registry
from blockzoo.training import sharding
from blockzoo.training.config import TrainConfig
from blockzoo.training.distributed import ALONE, World, check_processes
from blockzoo.training.folder import RunFolder, clear
from blockzoo.training.interrupt import Interrupt, Interrupted
from blockzoo.training.loop import Reporter, Silent, Training, run_loop
from blockzoo.training.metrics import Metrics, Unwritten
from blockzoo.training.parametrization import parametrized
from blockzoo.training.source import Source
from blockzoo.training.trackers import TrackedMetrics, TrackedRun, Trackers, check_trackers, open_trackers

FORMAT = 1
UNHASHED = {"log_every", "checkpoint_every", "trackers", "parallel"}
TORCHRUN_REPEATS = 2.0
"""Seconds in which a second signal is the terminal's first, passed on."""


@dataclass(frozen=True)
class Run:
    """Everything that decides the numbers of a run, and where runs are kept."""

    model: ModelConfig
    train: TrainConfig
    data: Source
    out: Path
    registry: Registry
    tokenizer: str

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed. Left out: how often metrics and checkpoints are written and who hears of them, which changes
        no number, and how many processes train, which changes the last bits.
        """
        return {
            "format": FORMAT,
            "model": digest(self.model, self.registry),
            "train": self.train.model_dump(mode="json", exclude=UNHASHED),
            "data": self.data.sha256,
            "tokenizer": self.tokenizer,
            "environment": environment(self.train.device),
        }

    @property
    def folder(self) -> RunFolder:
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model.name).strip(".-") or "model"
        return RunFolder(self.out / f"{name}-{digest[:12]}")

    def check(self, world: World = ALONE) -> None:
        """Raise InputError for a model, text and recipe that don't fit each other or these processes, PluginError for a
        block that can't be built: before there is a folder.
        """
        if self.train.block > self.model.context_length:
            raise InputError(
                f"train.block is {self.train.block}, {self.model.name}'s context_length {self.model.context_length}:"
                " shorten the block or lengthen the context"
            )
        model = parametrized(self.model, self.train.parametrization)
        building.empty(model, registry=self.registry, device="meta", trainable=True)
        self.data.check(self.train.block, self.model.vocab_size)
        building.check_device(world.device(self.train.device))
        sharding.parallel_of(self.train, world)
        check_trackers(self.train.trackers)
        check_processes(world)

    def execute(self, reporter: Reporter | None = None, *, restart: bool = False, world: World = ALONE) -> RunFolder:
        """Train to the end, from wherever the run stands; a finished one is left as it is. Each process of ``world``
        calls it; the first holds the folder, writes and reports.

        Raises RunError for a run that failed (its folder says why), Interrupted for one that was stopped and saved.
        """
        self.check(world)
        folder, reporter = self.folder, Silent() if reporter is None or not world.is_first else reporter
        with (
            folder.locked() if world.is_first else contextlib.nullcontext(),
            Interrupt(deaf=0.0 if world.size == 1 else TORCHRUN_REPEATS) as interrupt,
        ):
            if not world.from_first(lambda: self._begin(folder, restart, world)):
                return folder
            try:
                self._train(folder, reporter, world, interrupt)
            except (Interrupted, KeyboardInterrupt):
                if world.is_first:
                    folder.set_status("interrupted")
                raise
            except Exception as error:
                reason = world.explain(self._readable(error))
                if world.is_first:
                    with contextlib.suppress(CheckpointError):  # a full disk must not hide what went wrong
                        folder.set_status("failed", f"{type(reason).__name__}: {reason}")
                if reason is error:
                    raise
                raise reason from error
        return folder

    def _begin(self, folder: RunFolder, restart: bool, world: World) -> bool:
        """Write down what is asked for. False where it is done already."""
        if restart:
            clear(folder)
        if folder.status()["state"] == "done":
            return False
        worlds = self.worlds(world)
        folder.write("run.json", {**self.identity, "config": dump(self.model, self.registry), "worlds": worlds})
        folder.set_status("running")
        return True

    def worlds(self, world: World) -> list[dict[str, Any]]:
        """Which processes trained from which step on: those on record, and ``world`` from the newest checkpoint on."""
        step = self.folder.checkpoints.latest_step()
        before = [one for one in (self.folder.read("run.json") or {}).get("worlds", []) if one["from_step"] < step]
        now = {"processes": world.size, "parallel": sharding.parallel_of(self.train, world)}
        if before and {**before[-1], **now} == before[-1]:
            return before
        return [*before, {"from_step": step, **now}]

    def _readable(self, error: Exception) -> Exception:
        if isinstance(error, torch.OutOfMemoryError):
            return RunError(f"out of memory on {self.train.device}: lower train.batch_size, raise accumulation")
        return explained(error, self.registry)

    def _train(self, folder: RunFolder, reporter: Reporter, world: World, interrupt: Interrupt) -> None:
        train = self.train
        trackers = Trackers({})
        metrics: Metrics = Unwritten(folder.metrics.file)
        if world.is_first:
            trackers = open_trackers(train.trackers, TrackedRun(self.model.name, folder.path))
            metrics = TrackedMetrics(folder.metrics.file, trackers)
        trackers.start(folder.read("run.json") or {})
        try:
            model = sharding.build(
                parametrized(self.model, train.parametrization), train, world, registry=self.registry
            )
            training = Training(model, train, self.data, world=world)
            training.restore(folder.checkpoints)
            metrics.truncate(training.step)
            done = training.step * train.tokens_per_step
            reporter.start(self.model.name, train.total_steps * train.tokens_per_step, done)
            try:
                figures = run_loop(training, metrics, folder.checkpoints, reporter, interrupt)
            finally:
                reporter.finish()
            whole = sharding.whole_model(model, world, registry=self.registry)
            if whole is not None:
                shutil.rmtree(folder.model, ignore_errors=True)
                save_pretrained(whole, folder.model, layout="native", registry=self.registry)
                folder.write("result.json", self._result(folder, figures))
                folder.set_status("done")
        finally:
            trackers.finish(folder.result() if world.is_first else None)

    def _result(self, folder: RunFolder, figures: dict[str, float]) -> dict[str, Any]:
        steps = [line for line in folder.metrics.read() if "tokens" in line]
        seconds = sum(line["seconds"] for line in steps)
        tail = steps[-max(1, len(steps) // 20) :]
        return {
            **figures,
            "train_loss": sum(line["loss"] for line in tail) / len(tail),
            "steps": len(steps),
            "tokens": steps[-1]["tokens"],
            "seconds": seconds,
            "tokens_per_second": steps[-1]["tokens"] / seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def environment(device: str) -> dict[str, Any]:
    """What else decides the bits of a run."""
    cuda = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else None
    return {
        "blockzoo": version("blockzoo"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": cuda or f"{device} {torch.backends.cpu.get_cpu_capability()}",
    }
