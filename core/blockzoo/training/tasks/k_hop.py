"""Following pointers: facts ``a b`` in any order, then questions: where does one come to from ``a`` in k steps?

``<s> c a  a d  d b  b c  [2] c d  [1] b c``: from c two steps lead over a to d. The facts form one circle, so that no
number of steps below its length is ever answered by standing still. A layer can follow a pointer or two, so many
steps ask for depth (compare Sanford et al. 2024, arXiv:2402.09268: k-hop induction heads).

Asked for equally often, one step and more were not learned in 1.4 million tokens by the shapes that were tried; with
one step three times as often as two (``weights``) one is learned first and two after it (docs/results/tasks).
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from blockzoo.config.schema import Section
from blockzoo.training.tasks.task import START, START_NAME, Example


class KHopConfig(Section):
    """YAML: ``task: {type: k_hop, hops: [1, 2, 4], pairs: 8}``."""

    type: Literal["k_hop"]
    hops: tuple[PositiveInt, ...] = Field((1, 2, 4), min_length=1, description="steps that are asked for")
    weights: tuple[PositiveInt, ...] | None = Field(
        None, description="how often each of hops is asked for, beside the others; left out: equally often"
    )
    pairs: PositiveInt = Field(8, description="facts in an example")
    keys: PositiveInt = Field(16, description="names there are; an example uses as many as it has facts")
    queries: PositiveInt = Field(4, description="questions in an example, each answered by one token")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.keys < self.pairs:
            raise ValueError(f"keys is {self.keys}: {self.pairs} pairs need as many names")
        if max(self.hops) >= self.pairs:
            raise ValueError(f"hops has {max(self.hops)}: {self.pairs} pairs lead back to the start by then; give more")
        if len(set(self.hops)) < len(self.hops):
            raise ValueError(f"hops are {list(self.hops)}: one is there twice")
        if self.weights is not None and len(self.weights) != len(self.hops):
            raise ValueError(f"weights has {len(self.weights)} numbers, hops {len(self.hops)}; give one for each")
        return self

    def build(self) -> KHop:
        return KHop(self)


@dataclass(frozen=True)
class KHop:
    """Tokens: START, the keys, and one for each number of steps."""

    config: KHopConfig

    @property
    def names(self) -> tuple[str, ...]:
        config = self.config
        return (START_NAME, *(f"k{i}" for i in range(config.keys)), *(f"[{hops}]" for hops in config.hops))

    @property
    def longest(self) -> int:
        return 1 + 2 * self.config.pairs + 3 * self.config.queries

    def draw(self, random: np.random.Philox) -> Example:
        config = self.config
        circle = (1 + random.random_raw(config.keys).argsort()[: config.pairs]).tolist()
        tokens, scored = [START], []
        for place in random.random_raw(config.pairs).argsort().tolist():
            tokens += [circle[place], circle[(place + 1) % config.pairs]]
        bounds = list(accumulate(config.weights or [1] * len(config.hops)))
        raw = random.random_raw(2 * config.queries).tolist()
        for one, other in zip(raw[::2], raw[1::2], strict=True):
            hop, start = bisect(bounds, one % bounds[-1]), other % config.pairs
            end = (start + config.hops[hop]) % config.pairs
            tokens += [1 + config.keys + hop, circle[start], circle[end]]
            scored.append(len(tokens) - 1)
        return Example(tokens, scored)
