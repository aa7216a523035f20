"""The two ends of a model: tokens to vectors, and vectors to logits.

Axes: B batch, T tokens, D d_model, V vocab_size.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from blockzoo.config.schema import EmbeddingConfig, HeadConfig, ModelConfig
from blockzoo.tables import FakeQuantTable, StoredTable, Table, TiedTable


class Embedding(nn.Module):
    """tokens (B, T) and positions (B, T) -> (B, T, D)."""

    def __init__(self, recipe: EmbeddingConfig, config: ModelConfig, trainable: bool) -> None:
        super().__init__()
        table = TiedTable if recipe.tied else Table
        self.tokens: Table | StoredTable = table(config.vocab_size, config.d_model)
        if recipe.quantizer is not None and trainable:
            self.tokens = FakeQuantTable(self.tokens, recipe.quantizer)
        elif recipe.quantizer is not None:
            shape = (config.vocab_size, config.d_model)
            self.tokens = StoredTable(shape, None, recipe.quantizer)
        self.position = None if recipe.position is None else recipe.position.build(config.dims)
        self.norm = nn.Identity() if recipe.norm is None else recipe.norm.build(config.d_model)
        self.dropout = nn.Dropout(recipe.dropout)
        self.scale = sqrt(config.d_model) if recipe.scale == "sqrt_d_model" else recipe.scale

    def forward(self, tokens: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
        x = self.tokens.rows(tokens, dtype)
        if self.scale != 1.0:
            x = x * torch.tensor(self.scale, dtype=x.dtype, device=x.device)
        if self.position is not None:
            x = x + self.position(positions).to(x.dtype)
        return self.dropout(self.norm(x))


class Head(nn.Module):
    """(B, T, D) -> logits (B, T, V). ``table`` is the embedding's, where the two are tied."""

    def __init__(self, recipe: HeadConfig, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.Identity() if recipe.norm is None else recipe.norm.build(config.d_model)
        self.unembedding = None if config.embedding.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if recipe.bias else None
        self.logit_scale = recipe.logit_scale
        self.logit_softcap = recipe.logit_softcap

    def forward(self, x: Tensor, table: nn.Module) -> Tensor:
        logits = (table if self.unembedding is None else self.unembedding)(self.norm(x))
        if self.bias is not None:
            logits = logits + self.bias
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        if self.logit_softcap is not None:
            logits = torch.tanh(logits / self.logit_softcap) * self.logit_softcap
        return logits
