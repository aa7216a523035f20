"""Prompts: what can be generated from, and several of them as one batch.

Axes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blockzoo.errors import InputError

if TYPE_CHECKING:
    from blockzoo.model import Decoder


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


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Tokens and positions (B, T): padding on the left, so that every row's last token is in the last column."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    if all(len(p) == longest for p in prompts):
        return tokens, None
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    positions = torch.arange(longest, device=device) - (longest - lengths)[:, None]
    return tokens, positions.clamp(min=-1)
