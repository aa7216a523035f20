"""A task as data: examples packed into sequences, held-out ones apart, and exact scores.

Axes: B sequences, T tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from blockzoo.errors import InputError
from blockzoo.training.source import UNSCORED, Batch
from blockzoo.training.tasks import TaskConfig
from blockzoo.training.tasks.task import START, Example, Task
from blockzoo.training.tasks.tokenizer import TaskTokenizer

FORMAT = 1
HELD_OUT_SEED = 0x4E1D0071
"""Of the held-out examples; what keeps them apart from training is their hash, not this."""
FIRST = 64
"""Examples that the hash of the data is taken over."""
WIDEST = 256
"""A vocabulary that is no mistake for any task: that of the models that read bytes."""
DRAWS = 100_000
"""Examples that may be drawn in vain before a task is called too small to be split."""


@dataclass
class TaskSource:
    """Endless examples. An example is held out if its hash says so: none is ever both trained on and evaluated.

    ``sha256`` is of the task's definition and of the first examples, so it differs where numbers are drawn otherwise.
    """

    config: TaskConfig
    held_out: float
    metric: ClassVar[str] = "loss"
    lower_is_better: ClassVar[bool] = True
    scores_all: ClassVar[bool] = False
    task: Task = field(init=False, repr=False)
    _kept: dict[tuple[int, int], Batch] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.task = self.config.build()

    @property
    def name(self) -> str:
        return f"task {self.config.type}"

    @property
    def n_tokens(self) -> int:
        return len(self.task.names)

    @property
    def tokenizer(self) -> TaskTokenizer:
        return TaskTokenizer(self.task.names)

    @cached_property
    def sha256(self) -> str:
        definition = {"format": FORMAT, "held_out": self.held_out, **self.config.model_dump(mode="json")}
        random = _generator(0, 0)
        first = [self.task.draw(random).tokens for _ in range(FIRST)]
        return hashlib.sha256(json.dumps([definition, first], sort_keys=True).encode()).hexdigest()

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Batch:
        """Rows of whole examples, one after another; what is left of a row is START, unscored."""
        return self._rows(_generator(seed, step), n_sequences, length, held_out=False)

    def held_out_batches(self, n_tokens: int, n_sequences: int, length: int) -> Iterator[Batch]:
        n_rows = -(-n_tokens // length)
        if (n_rows, length) not in self._kept:  # drawing them takes as long as an evaluation
            self._kept[n_rows, length] = self._rows(_generator(HELD_OUT_SEED, 0), n_rows, length, held_out=True)
        inputs, targets = self._kept[n_rows, length]
        return zip(inputs.split(n_sequences), targets.split(n_sequences), strict=True)

    def tally(self, losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Nats, scored tokens, answers that are right in all their tokens, answers.

        An answer is a run of scored tokens.
        """
        scored = (targets != UNSCORED).cpu()
        right = (logits.argmax(-1) == targets).cpu()
        before = torch.nn.functional.pad(scored, (1, 0))[:, :-1]
        begins = scored & ~before
        number = begins.flatten().cumsum(0)  # (B * T,) the answer that a scored token belongs to
        wrong = number[(scored & ~right).flatten()].unique()
        answers = int(begins.sum())
        sums = [float(losses.cpu().double().sum()), int(scored.sum()), answers - len(wrong), answers]
        return torch.tensor(sums, dtype=torch.float64)

    def figures(self, totals: Tensor) -> dict[str, float]:
        """``loss`` in nats a scored token; ``accuracy``, the fraction of answers with every token right."""
        nats, scored, right, answers = totals.tolist()
        return {self.metric: nats / scored, "accuracy": right / answers}

    def check(self, length: int, vocab_size: int) -> None:
        """Raise InputError where no example fits into ``length`` tokens, or a vocabulary is not made for this task."""
        if self.task.longest > length + 1:
            raise InputError(
                f"{self.name}: an example has up to {self.task.longest} tokens, a sequence {length + 1} (train.block"
                f" and its target): set train.block to {self.task.longest - 1} or more, or make the task smaller"
            )
        if vocab_size < self.n_tokens:
            raise InputError(
                f"{self.name}: has {self.n_tokens} tokens, the model a vocabulary of {vocab_size}: set vocab_size to"
                f" {self.n_tokens}"
            )
        if vocab_size > max(WIDEST, 2 * self.n_tokens):
            raise InputError(
                f"{self.name}: has {self.n_tokens} tokens, the model a vocabulary of {vocab_size}, nearly all of it"
                f" never used: set vocab_size to {self.n_tokens} (up to {max(WIDEST, 2 * self.n_tokens)} is taken)"
            )

    def questions(self, n: int) -> list[str]:
        """Held-out examples up to their first answer, as text: what a trained model is asked to go on from."""
        random = _generator(HELD_OUT_SEED, 1)
        examples = [self._next(random, held_out=True) for _ in range(n)]
        return [f"{self.tokenizer.decode(example.tokens[: example.scored[0]])} " for example in examples]

    def _rows(self, random: np.random.Philox, n_rows: int, length: int, held_out: bool) -> Batch:
        tokens = np.full((n_rows, length + 1), START, dtype=np.int64)
        scored = np.zeros((n_rows, length + 1), dtype=bool)
        example = self._next(random, held_out)
        for row in range(n_rows):
            end = 0
            # one that doesn't fit begins the next row: whether it fits must not choose which there are
            while end + len(example.tokens) <= length + 1:
                tokens[row, end : end + len(example.tokens)] = example.tokens
                scored[row, [end + place for place in example.scored]] = True
                end += len(example.tokens)
                example = self._next(random, held_out)
        targets = np.where(scored, tokens, UNSCORED)
        return torch.from_numpy(tokens[:, :-1]), torch.from_numpy(targets[:, 1:])

    def _next(self, random: np.random.Philox, held_out: bool) -> Example:
        for _ in range(DRAWS):
            example = self.task.draw(random)
            if self.is_held_out(example.tokens) == held_out:
                return example
        raise InputError(
            f"{self.name}: {DRAWS} examples in a row are all {'trained on' if held_out else 'held out'}: it has too few"
            " different ones to hold some out; make the task larger or change data.held_out"
        )

    def is_held_out(self, tokens: Sequence[int]) -> bool:
        """Whether an example is for evaluation: a matter of its hash."""
        digest = hashlib.blake2b(struct.pack(f"<{len(tokens)}H", *tokens), digest_size=8).digest()
        return int.from_bytes(digest, "little") < self.held_out * 2**64


def _generator(seed: int, step: int) -> np.random.Philox:
    """Counter-based: Salmon et al. 2011."""
    return np.random.Philox(key=[seed, step])
