"""What each process does in test_distributed.py, under torchrun: the runs that a JSON text asks for, one after another.

``python together.py JSON``, a list of {out, model, train, text, and of these one or none: stops, breaks, dies}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from blockzoo.config import load_config
from blockzoo.plugins import host
from blockzoo.tokenizers import ByteTokenizer
from blockzoo.training.config import TrainConfig
from blockzoo.training.data import Dataset, prepare
from blockzoo.training.data_config import DataConfig
from blockzoo.training.distributed import World, join
from blockzoo.training.interrupt import Interrupted
from blockzoo.training.loop import Silent
from blockzoo.training.run import Run
from blockzoo.training.source import Batch

FATAL_STEP = 3


class Stops(Silent):
    """Presses Ctrl-C in the first process alone when a step is over."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def step(self, tokens: int, loss: float | None) -> None:
        if tokens == self.tokens:
            os.kill(os.getpid(), signal.SIGINT)


class Breaks(Dataset):
    """Raises in the second process, in the middle of a run."""

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Batch:
        if step == FATAL_STEP and os.environ["RANK"] == "1":
            raise ValueError("a bad shard")
        return super().batch(seed, step, n_sequences, length)


class Dies(Dataset):
    """The second process is killed, in the middle of a run."""

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Batch:
        if step == FATAL_STEP and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(seed, step, n_sequences, length)


def perform(spec: dict[str, Any], world: World) -> None:
    text, registry = Path(spec["text"]), host().registry
    train = TrainConfig.model_validate(spec["train"])
    with world.first_ahead():
        data = prepare(DataConfig(path=text), ByteTokenizer(), "bytes", text.parent / "tokens")
    kind = Breaks if spec.get("breaks") else Dies if spec.get("dies") else Dataset
    source = kind(data.name, data.sha256, data.train, data.held_out, data.token_lengths)
    run = Run(load_config(spec["model"], registry=registry), train, source, Path(spec["out"]), registry, "bytes")
    reporter = Stops(spec["stops"] * train.tokens_per_step) if "stops" in spec else Silent()
    try:
        run.execute(reporter, world=world)
    except Interrupted:
        if "stops" not in spec:
            raise


if __name__ == "__main__":
    with join() as world:
        for spec in json.loads(sys.argv[1]):
            perform(spec, world)
