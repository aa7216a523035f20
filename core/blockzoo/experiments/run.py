"""One arm: train it, then time its decoding and draw its sample. Nothing here depends on the process it runs in."""

from __future__ import annotations

import time
from typing import Any

import torch

from blockzoo.checkpoints import from_pretrained
from blockzoo.experiments.config import SampleConfig
from blockzoo.experiments.plan import ArmPlan
from blockzoo.generation import generate
from blockzoo.registry import Registry
from blockzoo.tokenizers import load_tokenizer
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
    """``text``, and ``decode_tokens_per_second`` of one sequence, the prompt's pass left out."""
    tokenizer = load_tokenizer(plan.tokenizer, registry=registry)
    model = from_pretrained(folder.model, device=plan.train.device, dtype=torch.float32, registry=registry)
    sample = plan.sample
    prompt = tokenizer.encode(sample.prompt)
    room = plan.model.context_length - len(prompt)
    n_new = min(sample.max_new_tokens, room)
    list(_tokens(model, prompt, min(8, n_new), sample, tokenizer.n_tokens))  # the first pass of anything is slow
    tokens, times = [], []
    for token in _tokens(model, prompt, n_new, sample, tokenizer.n_tokens):
        tokens.append(token)
        times.append(time.perf_counter())
    speed = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None
    return {"text": sample.prompt + tokenizer.decode(tokens), "decode_tokens_per_second": speed}


def _tokens(model: Any, prompt: list[int], n_new: int, sample: SampleConfig, n_tokens: int) -> Any:
    return generate(
        model,
        prompt,
        max_new_tokens=n_new,
        temperature=sample.temperature,
        top_k=sample.top_k,
        top_p=sample.top_p,
        seed=sample.seed,
        n_tokens=n_tokens,
    )
