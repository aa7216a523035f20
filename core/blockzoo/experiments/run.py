"""One arm: train it, then time its decoding and draw its sample. Nothing here depends on the process it runs in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from blockzoo.checkpoints import from_pretrained
from blockzoo.experiments.plan import ArmPlan
from blockzoo.generation import generate
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer, load_tokenizer
from blockzoo.training.data import prepare
from blockzoo.training.loop import Reporter
from blockzoo.training.run import Run, RunFolder


def make_run(plan: ArmPlan, *, registry: Registry) -> Run:
    """The training run of a plan, its text tokenised."""
    tokenizer = load_tokenizer(plan.tokenizer, registry=registry)
    data = prepare(plan.data, tokenizer, plan.tokenizer, plan.out / "data")
    return Run(plan.model, plan.train, data, plan.out, registry, plan.tokenizer)


def run_arm(plan: ArmPlan, *, registry: Registry, reporter: Reporter | None = None, restart: bool = False) -> RunFolder:
    """Execute a plan; what is done already is not done again. Raises what ``Run.execute`` raises."""
    folder = make_run(plan, registry=registry).execute(reporter, restart=restart)
    wanted = plan.sample.model_dump(mode="json")
    found = folder.read("sample.json")
    if found is None or found["sample"] != wanted:
        folder.write("sample.json", {"sample": wanted, **draw_sample(plan, folder, registry=registry)})
    return folder


def draw_sample(plan: ArmPlan, folder: RunFolder, *, registry: Registry) -> dict[str, Any]:
    """``texts``, one a prompt, and ``decode_tokens_per_second`` of one sequence, the prompts' own passes left out."""
    tokenizer = load_tokenizer(plan.tokenizer, registry=registry)
    model = from_pretrained(folder.model, device=plan.train.device, dtype=torch.float32, registry=registry)
    prompts = [tokenizer.encode(prompt) for prompt in plan.sample.prompts]
    for _ in _tokens(model, plan, prompts[0], tokenizer):
        pass  # the first pass of anything is slow
    texts, seconds, steps = [], 0.0, 0
    for text, prompt in zip(plan.sample.prompts, prompts, strict=True):
        tokens, times = [], []
        for token in _tokens(model, plan, prompt, tokenizer):
            tokens.append(token)
            times.append(time.perf_counter())
        texts.append(text + tokenizer.decode(tokens))
        if times:
            seconds += times[-1] - times[0]
            steps += len(times) - 1
    return {"texts": texts, "decode_tokens_per_second": steps / seconds if steps else None}


def _tokens(model: Decoder, plan: ArmPlan, prompt: list[int], tokenizer: Tokenizer) -> Iterator[int]:
    sample = plan.sample
    return generate(
        model,
        prompt,
        max_new_tokens=max(0, min(sample.max_new_tokens, plan.model.context_length - len(prompt))),
        temperature=sample.temperature,
        top_k=sample.top_k,
        top_p=sample.top_p,
        seed=sample.seed,
        stop=tokenizer.stop_tokens,
        n_tokens=tokenizer.n_tokens,
    )
