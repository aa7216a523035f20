"""Training tokens/s of blockzoo's own loop beside a plain loop around a plain GPT-2, on the same tokens.

    python tests/benchmarks/nanogpt_speed.py [--device cpu] [--dtype float32 bfloat16] [--vocab 256 50257]

The plain side is what one writes by hand in an afternoon: torch modules, F.scaled_dot_product_attention,
F.cross_entropy, fused AdamW in two groups, batches cut from one array. Ours is ``Training.advance``, all of it.
Rounds of the two alternate and each gives a ratio; their median counts, and the quartiles say how far to trust it: what
else the machine does meets both. Aim: at least 1.0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from shape import BATCH, BLOCK, HEADS, LAYERS, SHAPE, WIDTH
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo import building
from blockzoo.config import load_config
from blockzoo.plugins import host
from blockzoo.training.config import TrainConfig
from blockzoo.training.data import Dataset
from blockzoo.training.loop import Training, autocast

Step = Callable[[], Tensor]
LR, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.1


class Layer(nn.Module):
    """x (B, T, D) -> (B, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class PlainGPT(nn.Module):
    """inputs (B, T), targets (B, T) -> mean loss."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.apply(self._draw)

    @staticmethod
    def _draw(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        logits = F.linear(self.norm(self.layers(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def plain(text: np.ndarray, vocab: int, device: torch.device, dtype: str) -> Step:
    """One step of the plain loop."""
    model = PlainGPT(vocab).to(device).train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)

    def step() -> Tensor:
        starts = torch.randint(len(text) - BLOCK, (BATCH,)).tolist()
        windows = torch.from_numpy(np.stack([text[start : start + BLOCK + 1] for start in starts]).astype(np.int64))
        windows = windows.to(device)
        with autocast(device, dtype):
            loss = model(windows[:, :-1], windows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def ours(text: np.ndarray, vocab: int, device: torch.device, dtype: str) -> Step:
    """One step of blockzoo's."""
    registry = host().registry
    config = load_config({**SHAPE, "vocab_size": vocab}, registry=registry)
    model = building.build(config, registry=registry, device=device, trainable=True).train()
    recipe = {
        "steps": 10**6,
        "batch_size": BATCH,
        "block": BLOCK,
        "dtype": dtype,
        "device": str(device),
        "optimizer": {"lr": LR, "betas": BETAS, "weight_decay": DECAY, "clip": 1.0},
        "schedule": {"type": "constant"},
    }
    data = Dataset("random", "", text, text, torch.ones(vocab, dtype=torch.int64))
    training = Training(model, TrainConfig.model_validate(recipe), data)
    return lambda: torch.as_tensor(training.advance()["loss"])


def measure(vocab: int, device: torch.device, dtype: str, rounds: int, steps: int) -> dict[str, object]:
    """Median tokens/s of both, and the quartiles of the rounds' ratios."""
    text = np.random.default_rng(0).integers(vocab, size=1 << 20, dtype=np.uint16)
    pair = {make.__name__: make(text, vocab, device, dtype) for make in (ours, plain)}
    speeds: dict[str, list[float]] = {name: [] for name in pair}
    for step in [*pair.values()] * 2:
        step().item()
    for number in range(rounds):
        for name in sorted(pair, reverse=number % 2 == 1):
            begin = time.perf_counter()
            for _ in range(steps):
                loss = pair[name]()
            loss.item()
            speeds[name].append(steps * BATCH * BLOCK / (time.perf_counter() - begin))
    low, ratio, high = np.quantile(np.divide(speeds["ours"], speeds["plain"]), [0.25, 0.5, 0.75]).round(3).tolist()
    middle = {name: round(float(np.median(found))) for name, found in speeds.items()}
    return {
        "device": str(device),
        "dtype": dtype,
        "vocab": vocab,
        **middle,
        "ratio": ratio,
        "quartiles": [low, high],
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--vocab", nargs="+", type=int, default=[256, 50257])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1, help="in a round; more where the device is fast")
    options = parser.parse_args()
    for dtype in options.dtype:
        for vocab in options.vocab:
            found = measure(vocab, torch.device(options.device), dtype, options.rounds, options.steps)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
