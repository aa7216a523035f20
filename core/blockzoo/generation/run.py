"""Generation: one prompt as a stream, or a batch of prompts of different length.

A prompt goes through the model once and fills the cache; every later step reads one token a row.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from operator import index
from typing import TYPE_CHECKING

import torch

from blockzoo.generation.loop import decode
from blockzoo.generation.prompts import check_prompt, left_padded
from blockzoo.generation.sampling import Sampler, generator_for
from blockzoo.recording import Steps

if TYPE_CHECKING:
    from blockzoo.model import Decoder


def generate(
    model: Decoder,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Collection[int] = (),
    n_tokens: int | None = None,
    cache_dtype: torch.dtype | None = None,
) -> Iterator[int]:
    """Yield the tokens that follow a prompt, each as soon as it is known.

    Ends after ``max_new_tokens`` or before a token of ``stop``, which is not yielded. The same ``seed`` gives the
    same tokens whatever else draws random numbers; None draws a seed. ``n_tokens`` is the tokenizer's size (see
    ``Sampler``). The model is in evaluation mode until the stream ends or is closed. Raises InputError, before the
    first token is asked for, for an empty prompt, an id out of range, or a prompt and new tokens that don't fit the
    context.
    """
    sampler = Sampler(temperature, top_k, top_p, n_tokens)
    prompt = [index(token) for token in prompt_ids]  # a tensor's elements too
    check_prompt(model, prompt, max_new_tokens)
    return _stream(model, prompt, max_new_tokens, sampler, generator_for(seed), frozenset(stop), cache_dtype)


@torch.no_grad()
def _stream(
    model: Decoder,
    prompt: list[int],
    max_new_tokens: int,
    sampler: Sampler,
    generator: torch.Generator,
    stop: frozenset[int],
    cache_dtype: torch.dtype | None,
) -> Iterator[int]:
    if max_new_tokens == 0:
        return
    was_training = model.training
    model.eval()
    try:
        cache = model.new_cache(batch_size=1, max_length=len(prompt) + max_new_tokens, dtype=cache_dtype)
        read = Steps(model, cache)
        logits = read(torch.tensor([prompt], device=model.device))
        for [(_, token)] in decode(read, logits, sampler, [generator], max_new_tokens=max_new_tokens, stop=stop):
            yield token
    finally:
        model.train(was_training)


@torch.no_grad()
def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Collection[int] = (),
    n_tokens: int | None = None,
    cache_dtype: torch.dtype | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, all prompts in one batch; the prompts may differ in length.

    Row i gives what ``generate`` gives for that prompt with ``seed + i``, apart from ties that rounding decides. Rows
    that reach a token of ``stop`` leave the batch. Raises what ``generate`` raises, naming the prompt.
    """
    sampler = Sampler(temperature, top_k, top_p, n_tokens)
    prompts = [[index(token) for token in prompt] for prompt in prompts]
    for row, prompt in enumerate(prompts):
        check_prompt(model, prompt, max_new_tokens, f"prompt {row}")
    results: list[list[int]] = [[] for _ in prompts]
    if not prompts or max_new_tokens == 0:
        return results
    first = secrets.randbits(62) if seed is None else seed
    generators = [generator_for(first + row) for row in range(len(prompts))]
    was_training = model.training
    model.eval()
    try:
        tokens, positions = left_padded(prompts, model.device)
        most = tokens.shape[1] + max_new_tokens
        cache = model.new_cache(batch_size=len(prompts), max_length=most, dtype=cache_dtype)
        read = Steps(model, cache)
        for step in decode(
            read,  # the cache knows each row's length
            read(tokens, positions),
            sampler,
            generators,
            max_new_tokens=max_new_tokens,
            stop=frozenset(stop),
            leave=lambda going: cache.select(torch.tensor(going, device=model.device)),
        ):
            for row, token in step:
                results[row].append(token)
    finally:
        model.train(was_training)
    return results
