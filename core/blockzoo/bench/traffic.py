"""What a token costs by the account: bytes that decoding reads, FLOPs that reading a prompt takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from blockzoo.accounting import account, group_of
from blockzoo.config.schema import ModelConfig
from blockzoo.cost import Role
from blockzoo.memory_plan import TABLE, stored_bytes


@dataclass(frozen=True)
class Traffic:
    """Bytes read for one decoded token: ``weights`` by group of the account, as they are stored, of experts those that
    a token takes; ``cache`` at the mean context. The embedding's one row isn't counted; a tied table is unembedding.
    """

    weights: dict[str, int]
    cache: int

    @property
    def total(self) -> int:
        return sum(self.weights.values()) + self.cache


def decoding(config: ModelConfig, dtype: torch.dtype, prompt_tokens: int, new_tokens: int) -> Traffic:
    """Bytes a token while ``new_tokens`` follow a prompt."""
    cost = account(config, prompt_tokens + (new_tokens + 1) // 2).cost
    stored = stored_bytes(config, dtype)
    read: Counter[str] = Counter()
    for name, parameter in cost.parameters.items():
        if parameter.role is not Role.EMBEDDING:
            read[group_of(name)] += stored[name][1] * parameter.active_numel // parameter.numel
    if config.embedding.tied:
        read["unembedding"] += stored[TABLE][1]
    return Traffic(dict(read), sum(tensor.nbytes(dtype) for tensor in cost.cache))


def prefill_flops(config: ModelConfig, tokens: int) -> int:
    """FLOPs of reading a prompt into an empty cache, with logits of its last position only."""
    each = account(config, (tokens + 1) // 2).cost.flops
    unembedding = 2 * config.vocab_size * config.d_model
    return tokens * (each - unembedding) + unembedding
