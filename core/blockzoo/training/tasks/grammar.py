"""Brackets of several kinds, nested: the beginning of a word, then ``|``, then what closes everything that is open.

``<s> ( [ ] { | } ) <e>``. The words are a Dyck language, the model of all context-free ones (Chomsky & Schuetzenberger
1963). After ``|`` each token is determined by those before it, so a score can be exact; before it nothing is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from blockzoo.config.schema import Section
from blockzoo.training.tasks.task import START, START_NAME, Example


class GrammarConfig(Section):
    """YAML: ``task: {type: grammar, kinds: 4, depth: 8, length: 32}``."""

    type: Literal["grammar"]
    kinds: PositiveInt = Field(4, description="kinds of brackets")
    depth: PositiveInt = Field(8, description="brackets open at a time, at most")
    length: PositiveInt = Field(32, description="brackets before the bar, at most; an example has half of it or more")
    opening: float = Field(0.55, gt=0, lt=1, description="how often a bracket opens where it may open or close")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.depth > self.length:
            raise ValueError(f"depth is {self.depth}: {self.length} brackets can't be nested so deep")
        return self

    def build(self) -> Grammar:
        return Grammar(self)


@dataclass(frozen=True)
class Grammar:
    """Tokens: START, ``|``, the end, then an opening and a closing one of each kind."""

    config: GrammarConfig
    bar: int = 1
    end: int = 2

    @property
    def names(self) -> tuple[str, ...]:
        pairs = ["()", "[]", "{}", "<>"][: self.config.kinds]
        brackets = [*pairs, *((f"({i}", f"){i}") for i in range(len(pairs), self.config.kinds))]
        return (START_NAME, "|", "<e>", *(name for pair in brackets for name in pair))

    @property
    def longest(self) -> int:
        return 3 + self.config.length + self.config.depth

    def draw(self, random: np.random.Philox) -> Example:
        config = self.config
        shortest = max(1, config.length // 2)
        which, *raw = random.random_raw(1 + 2 * config.length).tolist()
        length = shortest + which % (config.length - shortest + 1)
        threshold = int(config.opening * 2**64)
        tokens, stack = [START], list[int]()
        for one, other in zip(raw[:length], raw[-length:], strict=True):
            if not stack or (one < threshold and len(stack) < config.depth):
                stack.append(other % config.kinds)
                tokens.append(3 + 2 * stack[-1])
            else:
                tokens.append(4 + 2 * stack.pop())
        tokens.append(self.bar)
        asked = len(tokens)
        tokens += [4 + 2 * kind for kind in reversed(stack)] + [self.end]
        return Example(tokens, list(range(asked, len(tokens))))
