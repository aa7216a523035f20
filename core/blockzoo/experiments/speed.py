"""How fast a model trains here: a few steps of it on drawn tokens, timed once and kept beside the runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from blockzoo import building
from blockzoo.accounting import account
from blockzoo.checkpoints.atomic import write_file
from blockzoo.config import digest
from blockzoo.config.schema import ModelConfig
from blockzoo.registry import Registry
from blockzoo.training.config import TrainConfig
from blockzoo.training.loop import Training
from blockzoo.training.run import environment
from blockzoo.training.source import Batch, Source

STEPS = 2
"""Steps that are timed, after one that isn't; the median counts."""
FOLDER = "speeds"


@dataclass(frozen=True)
class Speed:
    """``step_seconds``: of one optimizer step. ``kept_bytes``: what one forward pass keeps for the backward pass."""

    step_seconds: float
    kept_bytes: int


@dataclass(frozen=True)
class Noise:
    """Tokens that mean nothing, as a source of data."""

    n_tokens: int
    scores_all: bool = True

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(self.n_tokens, (n_sequences, length + 1), generator=generator)
        return tokens[:, :-1], tokens[:, 1:]


def speed_of(
    model: ModelConfig, train: TrainConfig, out: Path, *, registry: Registry, threads: int | None = None
) -> Speed:
    """The speed of a model under a recipe, as it was measured before in ``out`` or measured now."""
    with torch_threads(threads):
        asked = {
            "model": digest(model, registry),
            **train.model_dump(mode="json", include={"batch_size", "block", "accumulation", "device", "dtype"}),
            "environment": environment(train.device),
        }
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        file = out / FOLDER / f"{key}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file is measured again
            return Speed(**json.loads(file.read_text(encoding="utf-8"))["measured"])
        speed = measure(model, train, registry=registry)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps({"measured": asdict(speed), **asked}, indent=1) + "\n")
        return speed


def measure(model: ModelConfig, train: TrainConfig, *, registry: Registry) -> Speed:
    """Build the model and train it for a moment. Raises what building and training raise."""
    building.check_device(train.device)
    built = building.build(model, registry=registry, device=train.device, trainable=True)
    recipe = train.model_copy(update={"steps": STEPS + 1, "tokens": None, "flops": None, "seconds": None})
    with torch.random.fork_rng():
        training = Training(built, recipe, cast(Source, Noise(model.vocab_size)))
        kept = _kept_bytes(training)
        seconds = []
        for _ in range(STEPS + 1):
            begin = time.perf_counter()
            float(training.advance()["loss"])  # waits for the device
            seconds.append(time.perf_counter() - begin)
    return Speed(median(seconds[1:]), kept)


def fits(model: ModelConfig, memory: int) -> bool:
    """Whether weights, gradients and AdamW's moments fit into so many bytes."""
    return 16 * account(model, 1).parameters["total"] < memory


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Torch with so many CPU threads; None leaves them as they are."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _kept_bytes(training: Training) -> int:
    """Storage that autograd holds after a forward pass, the parameters' own left out."""
    parameters = {p.untyped_storage().data_ptr() for p in training.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    config = training.config
    inputs, targets = training.data.batch(0, 0, config.batch_size, config.block)
    training.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        loss, _ = training.losses((inputs.to(training.device), targets.to(training.device)))
    del loss
    return sum(kept.values())
