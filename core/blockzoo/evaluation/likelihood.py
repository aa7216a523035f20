"""How likely a model finds continuations of a context.

A context is read once, however many continuations it has, and of a continuation a bounded number of logits is held at
a time: a vocabulary of 200 thousand takes 0.8 MB a token.

Axes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blockzoo.cache import ModelCache
from blockzoo.model import Decoder

LOGITS = 1 << 25
"""Logits held at a time."""


class Likelihood(NamedTuple):
    """``log``: the log-probability of a continuation, in nats; ``greedy``: whether greedy decoding would write it."""

    log: float
    greedy: bool


@torch.no_grad()
def likelihoods(model: Decoder, context: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Likelihood]:
    """Of each continuation after one context, neither empty; among all ids that the model has.

    Raises InputError where the two together, but for the last token, don't fit the model's context.
    """
    longest = max(len(continuation) for continuation in continuations) - 1
    cache = model.new_cache(batch_size=1, max_length=len(context) + longest)
    first = _choices(model(_line(context, model), cache=cache, last_only=True))
    place = cache.bookmark()
    found = []
    for index, continuation in enumerate(continuations):
        if index:
            cache.return_to(place)
        found.append(_read(model, cache, first, continuation))
    return found


def _read(model: Decoder, cache: ModelCache, first: Tensor, continuation: Sequence[int]) -> Likelihood:
    """``first`` (1, V): log-probabilities of the first token."""
    log, greedy = _score(first, continuation[:1])
    at_once = max(16, LOGITS // model.config.vocab_size)
    for start in range(0, len(continuation) - 1, at_once):
        tokens = continuation[start : start + at_once + 1]  # the last one is only scored
        part = _score(_choices(model(_line(tokens[:-1], model), cache=cache)), tokens[1:])
        log, greedy = log + part.log, greedy and part.greedy
    return Likelihood(log, greedy)


def _line(tokens: Sequence[int], model: Decoder) -> Tensor:
    return torch.tensor([list(tokens)], device=model.device)


def _choices(logits: Tensor) -> Tensor:
    """logits (1, T, V) -> log-probabilities (T, V), float32."""
    return logits[0].float().log_softmax(-1)


def _score(choices: Tensor, tokens: Sequence[int]) -> Likelihood:
    wanted = torch.tensor(tokens, device=choices.device)
    log = choices.gather(1, wanted[:, None]).sum(dtype=torch.float64)
    return Likelihood(float(log), bool((choices.argmax(-1) == wanted).all()))
