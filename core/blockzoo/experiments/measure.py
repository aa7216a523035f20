"""What is measured on a trained model: texts, speeds of prefill and decoding, the load of experts.

Axes: B sequences, T tokens, E experts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor

from blockzoo.checkpoints import from_pretrained
from blockzoo.experiments.config import SampleConfig
from blockzoo.experiments.plan import RunPlan
from blockzoo.generation import generate
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer
from blockzoo.training.config import TrainConfig
from blockzoo.training.folder import RunFolder
from blockzoo.training.source import Source

MEASUREMENTS = "measurements.json"
PREFILLS = 5
"""Passes whose median is the speed, after one that isn't counted."""
LOAD_TOKENS = 16384
"""Held-out tokens that experts are counted on, at most."""


def measure(
    plan: RunPlan, folder: RunFolder, data: Source, tokenizer: Tokenizer, *, registry: Registry
) -> dict[str, Any]:
    """``texts``, one a prompt; ``decode_tokens_per_second`` of one sequence; ``prefill_tokens_per_second`` of one
    sequence of ``prefill_tokens``; ``expert_load``: layer -> the share of assignments that each expert got.

    Speeds are of this machine and of what else it did meanwhile.
    """
    model = from_pretrained(folder.model, device=plan.train.device, dtype=torch.float32, registry=registry)
    texts, decoding = texts_and_speed(model, plan.sample, tokenizer)
    tokens = held_out(data, plan)
    return {
        "texts": texts,
        "decode_tokens_per_second": decoding,
        "prefill_tokens": tokens.shape[1],
        "prefill_tokens_per_second": prefill_speed(model, tokens[:1]),
        "expert_load": expert_load(model, data, plan.train),
    }


def held_out(data: Source, plan: RunPlan) -> Tensor:
    """The first held-out inputs (1, T)."""
    inputs, _ = next(data.held_out_batches(plan.train.block, 1, plan.train.block))
    return inputs


def texts_and_speed(model: Decoder, sample: SampleConfig, tokenizer: Tokenizer) -> tuple[list[str], float | None]:
    """What each prompt is continued with, and tokens/s from the second new token on: prompts' own passes are no
    decoding.
    """
    prompts = [tokenizer.encode(prompt) for prompt in sample.prompts]
    for _ in islice(_tokens(model, sample, prompts[0], tokenizer), 8):
        pass  # the first passes of anything are slow
    texts, seconds, steps = [], 0.0, 0
    for text, prompt in zip(sample.prompts, prompts, strict=True):
        tokens, times = [], []
        for token in _tokens(model, sample, prompt, tokenizer):
            tokens.append(token)
            times.append(time.perf_counter())
        texts.append(text + tokenizer.decode(tokens))
        if times:
            seconds += times[-1] - times[0]
            steps += len(times) - 1
    return texts, steps / seconds if steps else None


@torch.no_grad()
def prefill_speed(model: Decoder, tokens: Tensor) -> float:
    """Tokens/s of filling a cache with tokens (1, T), logits of the last one alone."""
    tokens, times = tokens.to(model.device), []
    was_training = model.training
    model.eval()
    try:
        for _ in range(1 + PREFILLS):
            cache = model.new_cache(max_length=tokens.shape[1])
            begin = time.perf_counter()
            int(model(tokens, cache=cache, last_only=True).argmax())  # reading the result waits for the device
            times.append(time.perf_counter() - begin)
    finally:
        model.train(was_training)
    return tokens.shape[1] / median(times[1:])


@torch.no_grad()
def expert_load(model: Decoder, data: Source, train: TrainConfig) -> dict[str, list[float]]:
    """Layer -> share of each expert (E,), over held-out tokens, of every block that reports an ``expert_load``."""
    batches = data.held_out_batches(min(train.eval.tokens, LOAD_TOKENS), train.batch_size, train.block)
    was_training, total = model.training, 0
    loads: dict[str, Tensor] = {}
    model.eval()
    try:
        for inputs, _ in batches:
            _, aux = model(inputs.to(model.device), return_aux=True)
            found = {name.split(".")[1]: load for name, load in aux.items() if name.endswith(".expert_load")}
            if not found:
                return {}
            for layer, load in found.items():
                loads[layer] = loads.get(layer, torch.zeros_like(load)) + load * inputs.numel()
            total += inputs.numel()
    finally:
        model.train(was_training)
    return {layer: (load / total).tolist() for layer, load in loads.items()}


def _tokens(model: Decoder, sample: SampleConfig, prompt: list[int], tokenizer: Tokenizer) -> Iterator[int]:
    return generate(
        model,
        prompt,
        max_new_tokens=max(0, min(sample.max_new_tokens, model.config.context_length - len(prompt))),
        temperature=sample.temperature,
        top_k=sample.top_k,
        top_p=sample.top_p,
        seed=sample.seed,
        stop=tokenizer.stop_tokens,
        n_tokens=tokenizer.n_tokens,
    )
