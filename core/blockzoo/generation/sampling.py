"""How the next token is chosen: greedy, temperature, top-k and top-p (nucleus: Holtzman et al. 2019, arXiv:1904.09751).

Axes: B rows, V vocabulary, K tokens that may be drawn.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockzoo.errors import InputError


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
        """One token for each row of logits (B, V); each row draws from its own generator, on the CPU. Raises
        InputError for logits that are no numbers.
        """
        greatest = logits[:, : self.n_tokens].max(-1)  # argmax takes three to five times as long
        wrong = greatest.values[~greatest.values.isfinite()]
        if len(wrong):
            dtype = str(logits.dtype).removeprefix("torch.")
            advice = "" if logits.dtype in (torch.float32, torch.float64) else "; try float32"
            raise InputError(f"the model's logits are {wrong[0]:g}: its weights, or what {dtype} makes of them{advice}")
        if self.temperature == 0:
            return greatest.indices.tolist()
        rows = self.probabilities(logits).cpu()
        return [int(row.multinomial(1, generator=one)) for row, one in zip(rows, generators, strict=True)]


def generator_for(seed: int | None) -> torch.Generator:
    """A generator of its own on the CPU; None draws a seed."""
    return torch.Generator().manual_seed(secrets.randbits(62) if seed is None else seed)
