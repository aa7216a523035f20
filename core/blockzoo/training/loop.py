"""The training loop of one model on one device.

Axes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.errors import RunError
from blockzoo.training.checkpoint import Checkpoints
from blockzoo.training.config import TrainConfig
from blockzoo.training.cross_entropy import cross_entropy
from blockzoo.training.data import Dataset
from blockzoo.training.interrupt import Interrupt, Interrupted
from blockzoo.training.metrics import Metrics
from blockzoo.training.optimizer import make_optimizer, named_parameters

if TYPE_CHECKING:
    from blockzoo.model import Decoder


class Reporter(Protocol):
    """Who watches a run: a progress bar, or nobody."""

    def start(self, name: str, tokens: int, done: int) -> None: ...

    def step(self, tokens: int, loss: float | None) -> None: ...

    def evaluated(self, bits_per_byte: float) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Nobody watches."""

    def start(self, name: str, tokens: int, done: int) -> None: ...

    def step(self, tokens: int, loss: float | None) -> None: ...

    def evaluated(self, bits_per_byte: float) -> None: ...

    def finish(self) -> None: ...


@dataclass
class Training:
    """A model in training: the model, its optimizer and how many steps were done.

    Batch and dropout of a step depend on (seed, step) alone, so these three are all of its state.
    """

    model: Decoder
    config: TrainConfig
    data: Dataset
    step: int = 0
    device: torch.device = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    names: dict[nn.Parameter, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.device = self.model.device
        self.names = {p: name for name, p in named_parameters(self.model, self.model.config).items()}
        self.optimizer = make_optimizer(self.model, self.model.config, self.config.optimizer)

    def advance(self) -> dict[str, Tensor | float]:
        """One optimizer step. Returns its metrics; tensors stay on the device, so that it needn't be waited for."""
        config, settings = self.config, self.config.optimizer
        lr = settings.lr * config.schedule.factor(self.step, config.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(step_seed(config.seeds.dropout, self.step))
        sequences = config.batch_size * config.accumulation
        batch = self.data.batch(config.seeds.data, self.step, sequences, config.block)
        losses, balances = [], []
        for part in batch.to(self.device).split(config.batch_size):
            loss, balance = self.losses(part)
            total = loss if balance is None else loss + balance
            (total / config.accumulation if config.accumulation > 1 else total).backward()
            losses.append(loss.detach())
            if balance is not None:
                balances.append(balance.detach())
        clip = math.inf if settings.clip is None else settings.clip
        norm = nn.utils.clip_grad_norm_(list(self.names), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        found: dict[str, Tensor | float] = {"loss": _mean(losses), "grad_norm": norm, "lr": lr}
        if balances:
            found["balance_loss"] = _mean(balances)
        return found

    def losses(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """batch (B, T + 1) -> mean cross entropy in nats, and the layers' balance losses added up, or None."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        with autocast(self.device, self.config.dtype):
            logits, aux = self.model(inputs, return_aux=True)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss, aux.get("balance_loss")

    def bits_per_byte(self) -> float:
        """On the first ``eval.tokens`` held-out tokens."""
        config = self.config
        return bits_per_byte(self.model, self.data, config.eval.tokens, config.batch_size, config.block, config.dtype)

    def save(self, checkpoints: Checkpoints) -> None:
        checkpoints.save(self.step, self.model, self.optimizer, self.names)

    def restore(self, checkpoints: Checkpoints) -> None:
        """Go back to the newest checkpoint, if there is one."""
        self.step = checkpoints.load(self.model, self.optimizer, self.names)


def run_loop(
    training: Training, metrics: Metrics, checkpoints: Checkpoints, reporter: Reporter, interrupt: Interrupt
) -> float:
    """Train from where ``training`` stands to its last step; the held-out bits per byte at the end.

    Raises RunError for a loss that is no number (naming the step; the last checkpoint is from before it) and
    Interrupted, after a checkpoint, when ``interrupt`` asks for it.
    """
    config, total = training.config, training.config.total_steps
    training.model.train()
    pending: list[dict[str, Any]] = []
    bits: float | None = None
    with _rng_apart(training.device):
        begin = time.perf_counter()
        while training.step < total:
            pending.append(training.advance())
            step, stops = training.step, interrupt.requested  # read once: a signal during what follows waits for a step
            evaluates = step == total or _due(config.eval.every, step)
            saves = step == total or _due(config.checkpoint_every, step) or stops
            loss = None
            if evaluates or saves or step % config.log_every == 0:
                loss = _write_metrics(metrics, pending, step, config.tokens_per_step, begin)
            reporter.step(step * config.tokens_per_step, loss)
            if evaluates:
                bits = training.bits_per_byte()
                metrics.append([{"step": step, "bits_per_byte": bits}])
                reporter.evaluated(bits)
            if saves:
                training.save(checkpoints)
            if stops and step < total:
                raise Interrupted(
                    f"stopped after step {step} of {total}; it is saved, the same command goes on from there"
                )
            if loss is not None:
                begin = time.perf_counter()  # neither evaluation nor saving counts as training time
    return training.bits_per_byte() if bits is None else bits


@torch.no_grad()
def bits_per_byte(model: Decoder, data: Dataset, tokens: int, batch_size: int, block: int, dtype: str) -> float:
    """Bits to encode the first held-out ``tokens``, over the bytes of text they stand for.

    Windows of ``block`` tokens follow each other without overlap, so every token is predicted from those before it in
    its window. Sums in float64 of losses in float32.
    """
    device = model.device
    nats = torch.zeros((), dtype=torch.float64)
    n_bytes = 0
    was_training = model.training
    model.eval()
    try:
        for batch in data.held_out_batches(tokens, batch_size, block):
            inputs, targets = batch[:, :-1], batch[:, 1:].flatten()
            with autocast(device, dtype):
                logits = model(inputs.to(device))
            losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.to(device), reduction="none")
            nats += losses.cpu().double().sum()
            n_bytes += int(data.token_lengths[targets].sum())
    finally:
        model.train(was_training)
    return float(nats) / math.log(2) / n_bytes


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 activations over float32 weights, or nothing."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))


def step_seed(seed: int, step: int) -> int:
    """One seed for everything random inside a step: mixed, so that (1, 0) and (0, 1) differ."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63


def _write_metrics(
    metrics: Metrics, pending: list[dict[str, Any]], last: int, tokens_per_step: int, begin: float
) -> float:
    """Write the lines of the steps up to ``last`` and empty ``pending``; the last loss. Waits for the device."""
    values = [{name: float(value) for name, value in line.items()} for line in pending]
    seconds = (time.perf_counter() - begin) / len(values)
    first = last - len(values) + 1
    lines = [
        {"step": first + i, "tokens": (first + i) * tokens_per_step, **line, "seconds": seconds}
        for i, line in enumerate(values)
    ]
    for line in lines:
        if not math.isfinite(line["loss"]):
            raise RunError(
                f"the loss is {line['loss']} at step {line['step']}: training diverged. Lower train.optimizer.lr,"
                " lengthen train.schedule.warmup, or clip (train.optimizer.clip)"
            )
    metrics.append(lines)
    pending.clear()
    return lines[-1]["loss"]


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean()


@contextlib.contextmanager
def _rng_apart(device: torch.device) -> Iterator[None]:
    """The caller's random numbers are not disturbed by the seeds of the steps."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
