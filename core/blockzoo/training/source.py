"""What a training asks of its data, be it text or a task: batches from (seed, step), held-out batches, and figures.

Axes: B sequences, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

UNSCORED = -100
"""The target where nothing is asked: it has no loss, and no figure counts it."""

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, each (B, T) int64; ``targets[:, t]`` is what follows ``inputs[:, t]``, or UNSCORED."""


class Source(Protocol):
    """Tokens to train on. Everything depends on the arguments alone, so a run that resumes needs no loader's state.

    ``sha256`` is of all that decides the tokens: runs with different ones are never compared. ``metric`` names the
    first of ``figures``, the one that a verdict is about.
    """

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def lower_is_better(self) -> bool: ...

    @property
    def n_tokens(self) -> int:
        """Ids are below this; a model's vocabulary must hold them."""
        ...

    @property
    def scores_all(self) -> bool:
        """Whether no target is ever UNSCORED: then nobody needs to look."""
        ...

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Batch:
        """The batch of a step; a smaller ``n_sequences`` gives the beginning of a larger one."""
        ...

    def held_out_batches(self, n_tokens: int, n_sequences: int, length: int) -> Iterator[Batch]:
        """The same about ``n_tokens`` tokens every time, none of them ever trained on, B <= n_sequences."""
        ...

    def tally(self, losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Sums over one held-out batch, on the CPU in float64, which may be added over batches and processes.

        losses (B, T) in nats, 0 where unscored; logits (B, T, V); targets (B, T).
        """
        ...

    def figures(self, totals: Tensor) -> dict[str, float]:
        """What was measured, from the sum of all tallies: ``metric`` first."""
        ...

    def check(self, length: int, vocab_size: int) -> None:
        """Raise InputError where a sequence of ``length`` tokens doesn't fit, or ids don't into a vocabulary."""
        ...
