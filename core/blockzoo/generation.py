"""Generation: one prompt as a stream, or a batch of prompts of different length.

Greedy, temperature, top-k and top-p (nucleus: Holtzman et al. 2019, arXiv:1904.09751). A prompt goes through the model
once and fills the cache; every later step reads one token a row.

Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from blockzoo.errors import InputError

if TYPE_CHECKING:
    from blockzoo.model import Decoder


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen from logits.

    ``temperature`` 0 is greedy; it divides the logits before anything is cut. ``top_k`` keeps the k likeliest tokens,
    and ``top_p`` of those the smallest set whose probability reaches p; at least one is always left. ``n_tokens``:
    ids from there on are never chosen (a table of embeddings may be longer than the vocabulary).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    n_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.n_tokens is not None and self.n_tokens < 1:
            raise InputError(f"n_tokens is {self.n_tokens}; at least one id must be allowed")

    def probabilities(self, logits: Tensor) -> Tensor:
        """logits (B, V) -> what tokens are drawn from (B, min(V, n_tokens)), float32. Needs temperature > 0."""
        scores = logits[:, : self.n_tokens].float() / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            # by rank, not by value: of equal scores at the border exactly k stay
            kept = scores.topk(self.top_k, dim=-1)
            scores = torch.full_like(scores, -torch.inf).scatter_(-1, kept.indices, kept.values)
        probabilities = scores.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered  # a token stays while those before it fall short of p
            ordered = ordered.masked_fill(before >= self.top_p, 0)
            probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
            probabilities /= probabilities.sum(-1, keepdim=True)
        return probabilities

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        """One token for each row of logits (B, V); each row draws from its own generator, on the CPU."""
        if self.temperature == 0:
            return logits[:, : self.n_tokens].argmax(-1).tolist()
        rows = self.probabilities(logits).cpu()
        return [int(row.multinomial(1, generator=one)) for row, one in zip(rows, generators, strict=True)]


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
    device, was_training = model.device, model.training
    model.eval()
    try:
        cache = model.new_cache(batch_size=1, max_length=len(prompt) + max_new_tokens, dtype=cache_dtype)
        tokens = prompt
        for _ in range(max_new_tokens):
            logits = model(torch.tensor([tokens], device=device), cache=cache, last_only=True)
            (token,) = sampler(logits[:, -1], [generator])
            if token in stop:
                return
            yield token
            tokens = [token]
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
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    device, was_training = model.device, model.training
    model.eval()
    try:
        tokens, positions = _left_padded(prompts, device)
        longest = tokens.shape[1]
        cache = model.new_cache(batch_size=len(rows), max_length=longest + max_new_tokens, dtype=cache_dtype)
        for _ in range(max_new_tokens):
            logits = model(tokens, positions=positions, cache=cache, last_only=True)
            chosen = sampler(logits[:, -1], [generators[row] for row in rows])
            going = [i for i, token in enumerate(chosen) if token not in stop]
            for i in going:
                results[rows[i]].append(chosen[i])
            if not going:
                break
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                cache.select(torch.tensor(going, device=device))
            tokens = torch.tensor([[chosen[i]] for i in going], device=device)
            positions = None  # the cache knows each row's length
    finally:
        model.train(was_training)
    return results


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Tokens and positions (B, T): padding on the left, so that every row's last token is in the last column."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    if all(len(p) == longest for p in prompts):
        return tokens, None
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    positions = torch.arange(longest, device=device) - (longest - lengths)[:, None]
    return tokens, positions.clamp(min=-1)


def check_prompt(model: Decoder, prompt: Sequence[int], max_new_tokens: int, name: str = "the prompt") -> None:
    """Raise InputError for what can't be generated from."""
    vocab_size, context = model.config.vocab_size, model.config.context_length
    if len(prompt) == 0:
        raise InputError(f"{name} is empty: generation starts from at least one token")
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens is {max_new_tokens}; it must not be negative")
    wrong = [(i, token) for i, token in enumerate(prompt) if not 0 <= token < vocab_size]
    if wrong:
        place, token = wrong[0]
        raise InputError(
            f"{name}: token id {token} at index {place} is not among the model's {vocab_size} (0 to {vocab_size - 1});"
            " was it made by another model's tokenizer?"
        )
    together = len(prompt) + max_new_tokens
    if together > context:
        raise InputError(
            f"{name} has {len(prompt)} tokens and {max_new_tokens} new ones are asked for: {together} together, the"
            f" model's context holds {context}; shorten the prompt or lower max_new_tokens"
        )


def generator_for(seed: int | None) -> torch.Generator:
    """A generator of its own on the CPU; None draws a seed."""
    return torch.Generator().manual_seed(secrets.randbits(62) if seed is None else seed)


class TokenBytes(Protocol):
    """What of a tokenizer a stream of text needs."""

    def token_bytes(self, token: int) -> bytes: ...


@dataclass
class TextStream:
    """Tokens in, text out: a character whose UTF-8 bytes are not all there yet is held back."""

    tokenizer: TokenBytes
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"), init=False, repr=False
    )

    def push(self, token: int) -> str:
        """The text that this token completes."""
        return self._decoder.decode(self.tokenizer.token_bytes(token))

    def close(self) -> str:
        """What was held back: a replacement character for a character that never became whole."""
        return self._decoder.decode(b"", final=True)
