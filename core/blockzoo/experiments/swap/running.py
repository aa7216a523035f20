"""What is done with a trial: build, train for a moment, decode with a cache.

Axes: B sequences, T tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.accounting import account
from blockzoo.building import build
from blockzoo.config import ModelConfig, load_config
from blockzoo.experiments.swap.architectures import CONTEXT
from blockzoo.experiments.swap.slots import Trial
from blockzoo.experiments.text import text
from blockzoo.faults import explained
from blockzoo.importing import one_line
from blockzoo.model import Decoder
from blockzoo.registry import Registry

BATCH = 8
LEARNING_RATE = 3e-3
LEARNED = 0.9
"""The held-out loss must fall to this share of what it was."""
DECODE_TOLERANCE = 1e-4
"""Greatest error of cached logits over the greatest logit, float32."""
SEED = 0


@dataclass(frozen=True)
class Result:
    """What became of a trial. What wasn't reached is None, and ``error`` says why: one line with the stage in front.

    Losses in nats a byte on held-out text; ``decode_error``: greatest error of cached logits over the greatest logit;
    FLOPs and cache at the small context; times in seconds on this machine.
    """

    architecture: str
    component: str
    slot: str
    sample: str = ""
    error: str | None = None
    builds: bool = False
    loss_before: float | None = None
    loss_after: float | None = None
    decode_error: float | None = None
    tokens_per_second: float | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    flops_per_token: int | None = None
    cache_bytes: int | None = None
    step_seconds: float | None = None

    @property
    def learns(self) -> bool | None:
        """None where it wasn't trained: a kernel that is forward only."""
        if self.loss_before is None or self.loss_after is None:
            return None if self.error is None else False
        return self.loss_after < LEARNED * self.loss_before

    @property
    def decodes(self) -> bool:
        return self.decode_error is not None and self.decode_error <= DECODE_TOLERANCE


def stock_of(result: Result, results: Sequence[Result]) -> Result | None:
    """The result of the same architecture with its own blocks."""
    return next((r for r in results if not r.component and r.architecture == result.architecture), None)


def run(trial: Trial, registry: Registry, steps: int) -> Result:
    """Build, train, decode. Never raises for what a block does wrong."""
    result = Result(trial.architecture.name, trial.component, trial.slot, trial.sample)
    stage = "config"
    try:
        config = load_config(
            trial.architecture.base, {**trial.architecture.overrides, **trial.overrides}, registry=registry
        )
        result = replace(result, **_costs(config))
        stage = "build"
        model = build(config, registry=registry, seed=SEED, trainable=trial.trains, kernels=trial.kernels)
        result = replace(result, builds=True)
        if trial.trains:
            stage = "train"
            before, after, seconds = _train(model, steps)
            result = replace(result, loss_before=before, loss_after=after, step_seconds=seconds)
        stage = "decode"
        error, speed = _decode(model)
        return replace(result, decode_error=error, tokens_per_second=speed)
    except Exception as error:
        return replace(result, error=f"{stage}: {one_line(explained(error, registry))}")


def _costs(config: ModelConfig) -> dict[str, Any]:
    said = account(config, CONTEXT)
    return {
        "parameters": said.parameters["total"],
        "weight_bytes": said.weight_bytes["as_configured"],
        "flops_per_token": said.flops_per_token,
        "cache_bytes": said.kv_cache_bytes(),
    }


def _batch(data: Tensor, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,), generator=generator)
    return data[starts[:, None] + torch.arange(CONTEXT + 1)]  # (B, T + 1)


def _train(model: Decoder, steps: int) -> tuple[float, float, float]:
    """Held-out loss before and after, and the median seconds of a step."""
    data = text()
    held_out, data = data[: len(data) // 10], data[len(data) // 10 :]
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    before = _evaluate(model, held_out)
    seconds = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model.train()
        for step in range(steps):
            begin = time.perf_counter()
            batch = _batch(data, generator)
            logits, aux = model(batch[:, :-1], return_aux=True)
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            (loss + aux["balance_loss"] if "balance_loss" in aux else loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if not loss.isfinite():
                raise ArithmeticError(f"the loss is {loss.item()} at step {step + 1}")
            seconds.append(time.perf_counter() - begin)
    model.eval()
    return before, _evaluate(model, held_out), statistics.median(seconds)


@torch.no_grad()
def _evaluate(model: Decoder, held_out: Tensor) -> float:
    batch = torch.cat([_batch(held_out, torch.Generator().manual_seed(seed)) for seed in range(4)])
    loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    if not loss.isfinite():
        raise ArithmeticError(f"the loss on held-out text is {loss.item()}")
    return loss.item()


@torch.no_grad()
def _decode(model: Decoder) -> tuple[float, float]:
    """Prefill half of a text and decode the rest, token by token: greatest relative error, and tokens a second."""
    tokens = text()[None, :CONTEXT]
    full = model(tokens)
    half = CONTEXT // 2
    cache = model.new_cache(max_length=CONTEXT)
    parts = [model(tokens[:, :half], cache=cache)]
    begin = time.perf_counter()
    parts += [model(tokens[:, index : index + 1], cache=cache) for index in range(half, CONTEXT)]
    speed = (CONTEXT - half) / (time.perf_counter() - begin)
    error = (torch.cat(parts, dim=1) - full).abs().max() / full.abs().max()
    return error.item(), speed
