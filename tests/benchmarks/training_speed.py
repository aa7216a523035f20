"""Training speed of a GPT-2-shaped model beside transformers' GPT2LMHeadModel, in the same loop on the same tokens.

    python tests/benchmarks/training_speed.py [--device cpu] [--dtype float32 bfloat16] [--vocab 256 50257]

The loop is ours for both: AdamW in one pass, clipping, and the loss that keeps one copy of the logits. Rounds of the
two alternate, and the best of each counts, so that what else the machine does matters little. Aim: at least 1.0 on the
CPU in both dtypes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from shape import BATCH, BLOCK, HEADS, LAYERS, SHAPE, WIDTH
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from blockzoo import building
from blockzoo.config import load_config
from blockzoo.plugins import host
from blockzoo.training.config import OptimizerConfig
from blockzoo.training.cross_entropy import cross_entropy
from blockzoo.training.loop import autocast
from blockzoo.training.optimizer import make_optimizer

Step = Callable[[Tensor], Tensor]


def ours(vocab: int, device: torch.device, dtype: str) -> Step:
    """One training step of our model."""
    registry = host().registry
    config = load_config({**SHAPE, "vocab_size": vocab}, registry=registry)
    model = building.build(config, registry=registry, device=device, trainable=True).train()
    optimizer = make_optimizer(model, config, OptimizerConfig())
    return _step(model, lambda tokens: model(tokens, return_aux=True)[0], optimizer, device, dtype)


def theirs(vocab: int, device: torch.device, dtype: str) -> Step:
    """One training step of transformers' model; dropout off, as in ours."""
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=BLOCK,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config).to(device).train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    return _step(model, lambda tokens: model(tokens, use_cache=False).logits, optimizer, device, dtype)


def _step(
    model: nn.Module, logits_of: Step, optimizer: torch.optim.Optimizer, device: torch.device, dtype: str
) -> Step:
    parameters = list(model.parameters())

    def step(batch: Tensor) -> Tensor:
        with autocast(device, dtype):
            logits = logits_of(batch[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def measure(vocab: int, device: torch.device, dtype: str, rounds: int, steps: int) -> dict[str, object]:
    """Best tokens/s of both, and their ratio."""
    torch.manual_seed(0)
    batch = torch.randint(vocab, (BATCH, BLOCK + 1), device=device)
    pair = {"blockzoo": ours(vocab, device, dtype), "transformers": theirs(vocab, device, dtype)}
    speeds: dict[str, list[float]] = {name: [] for name in pair}
    for step in pair.values():
        step(batch).item()
    for _ in range(rounds):
        for name, step in pair.items():
            begin = time.perf_counter()
            for _ in range(steps):
                loss = step(batch)
            loss.item()
            speeds[name].append(steps * BATCH * BLOCK / (time.perf_counter() - begin))
    best = {name: max(found) for name, found in speeds.items()}
    ratio = best["blockzoo"] / best["transformers"]
    return {"device": str(device), "dtype": dtype, "vocab": vocab, **best, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--vocab", nargs="+", type=int, default=[256, 50257])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    for dtype in options.dtype:
        for vocab in options.vocab:
            print(
                json.dumps(measure(vocab, torch.device(options.device), dtype, options.rounds, options.steps)),
                flush=True,
            )


if __name__ == "__main__":
    main()
