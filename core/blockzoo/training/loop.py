"""The training loop of one model, in one process or in several that share each step's sequences.

Axes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.errors import DivergenceError
from blockzoo.training import sharding
from blockzoo.training.checkpoint import Checkpoints, optimizer_tensors
from blockzoo.training.config import TrainConfig
from blockzoo.training.cross_entropy import cross_entropy
from blockzoo.training.distributed import ALONE, World
from blockzoo.training.interrupt import Interrupt, Interrupted
from blockzoo.training.metrics import Metrics
from blockzoo.training.optimizer import make_optimizer, named_parameters
from blockzoo.training.source import UNSCORED, Batch, Source

if TYPE_CHECKING:
    from blockzoo.model import Decoder


class Reporter(Protocol):
    """Who watches a run: a progress bar, or nobody."""

    def start(self, name: str, tokens: int, done: int) -> None: ...

    def step(self, tokens: int, loss: float | None) -> None: ...

    def evaluated(self, figures: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Nobody watches."""

    def start(self, name: str, tokens: int, done: int) -> None: ...

    def step(self, tokens: int, loss: float | None) -> None: ...

    def evaluated(self, figures: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


@dataclass
class Training:
    """A model in training: the model, its optimizer and how many steps were done.

    Batch and dropout of a step depend on (seed, step) alone, so these three are all of its state. Each process of
    ``world`` trains on its part of that batch.
    """

    model: Decoder
    config: TrainConfig
    data: Source
    step: int = 0
    world: World = ALONE
    device: torch.device = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    names: dict[nn.Parameter, str] = field(init=False, repr=False)
    forward: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.device = self.model.device
        self.forward = sharding.callable_of(self.model, self.config, self.world)
        self.names = {p: name for name, p in named_parameters(self.model, self.model.config).items()}
        self.optimizer = make_optimizer(
            self.model, self.model.config, self.config.optimizer, self.config.parametrization
        )

    def advance(self) -> dict[str, Tensor | float]:
        """One optimizer step. Returns its metrics; tensors stay on the device, so that it needn't be waited for."""
        config, settings = self.config, self.config.optimizer
        lr = settings.lr * config.schedule.factor(self.step, config.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        torch.manual_seed(step_seed(config.seeds.dropout, self.step, self.world.rank))
        losses, balances = [], []
        parts = self._parts()
        for index, (batch, share) in enumerate(parts):
            with sharding.summed_up(self.forward, last=index == len(parts) - 1):
                loss, balance = self.losses(batch)
                total = loss if balance is None else loss + balance
                (total * share if share != 1 else total).backward()
            losses.append(loss.detach() * share)
            if balance is not None:
                balances.append(balance.detach() * share)
        clip = math.inf if settings.clip is None else settings.clip
        norm = sharding.joined(nn.utils.clip_grad_norm_(list(self.names), clip))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        found: dict[str, Tensor | float] = {"loss": _sum(losses), "grad_norm": norm, "lr": lr}
        if balances:
            found["balance_loss"] = _sum(balances)
        return found

    def _parts(self) -> list[tuple[Batch, float]]:
        """This process's forward passes of the step, and what the mean loss of each counts: its part of all scored
        tokens, times the processes, over which gradients are averaged.
        """
        config, world = self.config, self.world
        sequences = config.batch_size * config.accumulation
        whole = self.data.batch(config.seeds.data, self.step, sequences, config.block)
        mine = [tensor.chunk(world.size)[world.rank].split(config.batch_size) for tensor in whole]
        n_scored = self._n_scored(whole[1]) / world.size
        return [
            ((inputs.to(self.device), targets.to(self.device)), self._n_scored(targets) / n_scored)
            for inputs, targets in zip(*mine, strict=True)
        ]

    def _n_scored(self, targets: Tensor) -> int:
        return targets.numel() if self.data.scores_all else int((targets != UNSCORED).sum())

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Mean cross entropy of the scored tokens in nats, and the layers' balance losses added up, or None."""
        inputs, targets = batch
        with autocast(self.device, self.config.dtype):
            logits, aux = self.forward(inputs, return_aux=True)
        logits, targets = logits.flatten(0, 1), targets.flatten()
        if not self.data.scores_all:
            scored = (targets != UNSCORED).nonzero().squeeze(1)
            if not len(scored):
                return logits.sum() * 0, aux.get("balance_loss")
            logits, targets = logits[scored], targets[scored]
        return cross_entropy(logits, targets), aux.get("balance_loss")

    def evaluate(self) -> dict[str, float]:
        """The data's figures on the first ``eval.tokens`` held-out tokens."""
        config, n_tokens = self.config, self.config.eval.tokens
        return evaluate(self.model, self.data, n_tokens, config.batch_size, config.block, config.dtype, self.world)

    def save(self, checkpoints: Checkpoints) -> None:
        """The first process writes, what all of them hold."""
        weights = sharding.whole(self.model.state_dict(), self.world)
        moments = sharding.whole(optimizer_tensors(self.optimizer, self.names), self.world)
        if self.world.is_first:
            checkpoints.save(self.step, weights, moments)

    def restore(self, checkpoints: Checkpoints) -> None:
        """Go back to the newest checkpoint, if there is one."""
        self.step = checkpoints.load(self.model, self.optimizer, self.names)


def run_loop(
    training: Training, metrics: Metrics, checkpoints: Checkpoints, reporter: Reporter, interrupt: Interrupt
) -> dict[str, float]:
    """Train from where ``training`` stands to its last step; the held-out figures at the end.

    Raises DivergenceError for a loss that is no number (naming the step; the last checkpoint is from before it) and
    Interrupted, after a checkpoint, when ``interrupt`` asks for it.
    """
    config, total, world = training.config, training.config.total_steps, training.world
    training.model.train()
    pending: list[dict[str, Any]] = []
    figures: dict[str, float] | None = None
    with _rng_apart(training.device):
        begin = time.perf_counter()
        while training.step < total:
            pending.append(training.advance())
            # read once: a signal during what follows waits for a step
            step, stops = training.step, world.any(interrupt.requested)
            evaluates = step == total or _due(config.eval.every, step)
            saves = step == total or _due(config.checkpoint_every, step) or stops
            loss = None
            if evaluates or saves or step % config.log_every == 0:
                loss = _write_metrics(metrics, world, pending, step, config.tokens_per_step, begin)
            reporter.step(step * config.tokens_per_step, loss)
            if evaluates:
                figures = training.evaluate()
                metrics.append([{"step": step, **figures}])
                reporter.evaluated(figures)
            if saves:
                training.save(checkpoints)
            if stops and step < total:
                raise Interrupted(
                    f"stopped after step {step} of {total}; it is saved, the same command goes on from there"
                )
            if loss is not None:
                begin = time.perf_counter()  # neither evaluation nor saving counts as training time
    return training.evaluate() if figures is None else figures


@torch.no_grad()
def evaluate(
    model: Decoder, data: Source, tokens: int, batch_size: int, block: int, dtype: str, world: World = ALONE
) -> dict[str, float]:
    """The data's figures over its first held-out ``tokens``, in sequences of ``block``.

    Sums in float64 of losses in float32; each process takes a part of every batch.
    """
    device = model.device
    totals: Tensor | None = None
    was_training = model.training
    model.eval()
    try:
        for batch in data.held_out_batches(tokens, batch_size, block):
            inputs, targets, counts = _part(batch, world)
            targets = targets.to(device)
            with autocast(device, dtype):
                logits = model(inputs.to(device))
            losses = F.cross_entropy(
                logits.flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=UNSCORED
            )
            tally = data.tally(losses.view_as(targets), logits, targets) * counts
            totals = tally if totals is None else totals + tally
    finally:
        model.train(was_training)
        sharding.settle(model)
    assert totals is not None, "Source.check lets no source pass that has no held-out sequence"
    return data.figures(world.sum(totals))


def _part(batch: Batch, world: World) -> tuple[Tensor, Tensor, bool]:
    """This process's sequences of a held-out batch, and whether they count: where there are too few it computes some
    all the same, since split weights take every process to gather.
    """
    inputs, targets = (tensor.tensor_split(world.size)[world.rank] for tensor in batch)
    return (inputs, targets, True) if len(inputs) else (batch[0][:1], batch[1][:1], False)


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 activations over float32 weights, or nothing."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """One seed for all that is random in a step, in each process another; mixed, so that (1, 0) and (0, 1) differ."""
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0xD6E8FEB86659FD93 + 0x94D049BB133111EB
    return mixed % 2**63


def _write_metrics(
    metrics: Metrics, world: World, pending: list[dict[str, Any]], last: int, tokens_per_step: int, begin: float
) -> float:
    """Write the lines of the steps up to ``last`` and empty ``pending``; the last loss. Waits for the device."""
    values = world.mean([{name: float(value) for name, value in line.items()} for line in pending])
    seconds = (time.perf_counter() - begin) / len(values)
    first = last - len(values) + 1
    lines = [
        {"step": first + i, "tokens": (first + i) * tokens_per_step, **line, "seconds": seconds}
        for i, line in enumerate(values)
    ]
    for line in lines:
        if not math.isfinite(line["loss"]):
            raise DivergenceError(
                f"the loss is {line['loss']} at step {line['step']}: training diverged. Lower train.optimizer.lr,"
                " lengthen train.schedule.warmup, or clip (train.optimizer.clip)"
            )
    metrics.append(lines)
    pending.clear()
    return lines[-1]["loss"]


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _sum(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).sum()


@contextlib.contextmanager
def _rng_apart(device: torch.device) -> Iterator[None]:
    """The caller's random numbers are not disturbed by the seeds of the steps."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
