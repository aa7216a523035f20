"""Chains of sums and products modulo a number, worked from left to right: ``<s> 3 + 4 * 2 = 0`` modulo 7.

Every operation waits for the one before it, so long chains ask for depth; the table of each operation asks for width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from blockzoo.config.schema import Section
from blockzoo.training.tasks.task import START, START_NAME, Example


class ModularArithmeticConfig(Section):
    """YAML: ``task: {type: modular_arithmetic, modulus: 23, depth: [1, 2, 4]}``."""

    type: Literal["modular_arithmetic"]
    modulus: int = Field(23, ge=2, le=10_000, description="results are remainders of this; each is one token")
    depth: tuple[PositiveInt, ...] = Field(
        (1, 2, 3), min_length=1, description="operations in a chain; each length is asked for equally often"
    )
    operations: tuple[Literal["+", "*"], ...] = Field(("+", "*"), min_length=1, description="which of + and *")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("depth", "operations"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} is {list(getattr(self, name))}: one is there twice")
        return self

    def build(self) -> ModularArithmetic:
        return ModularArithmetic(self)


@dataclass(frozen=True)
class ModularArithmetic:
    """Tokens: START, the remainders, the operations, and ``=``."""

    config: ModularArithmeticConfig

    @property
    def names(self) -> tuple[str, ...]:
        return (START_NAME, *map(str, range(self.config.modulus)), *self.config.operations, "=")

    @property
    def longest(self) -> int:
        return 4 + 2 * max(self.config.depth)

    def draw(self, random: np.random.Philox) -> Example:
        modulus, operations = self.config.modulus, self.config.operations
        which, first, *raw = random.random_raw(2 + 2 * max(self.config.depth)).tolist()
        depth = self.config.depth[which % len(self.config.depth)]
        result = first % modulus
        tokens = [START, 1 + result]
        for one, other in zip(raw[:depth], raw[-depth:], strict=True):
            operation, number = one % len(operations), other % modulus
            if operations[operation] == "*":
                # times 0 would make all that came before it idle
                number = number or 1
                result = result * number % modulus
            else:
                result = (result + number) % modulus
            tokens += [1 + modulus + operation, 1 + number]
        tokens += [1 + modulus + len(operations), 1 + result]
        return Example(tokens, [len(tokens) - 1])
