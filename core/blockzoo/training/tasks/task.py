"""What a task is: names for its tokens, and examples drawn from a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

START = 0
"""Begins every example and fills what is left of a sequence; never asked for. Task tokens are counted from 1."""
START_NAME = "<s>"


@dataclass(frozen=True)
class Example:
    """One question with its answers. ``scored``: positions of ``tokens`` that the tokens before them determine."""

    tokens: list[int]
    scored: list[int]


class Task(Protocol):
    """A task, ready to draw from."""

    @property
    def names(self) -> tuple[str, ...]:
        """What to write for each token; the first is START_NAME."""
        ...

    @property
    def longest(self) -> int:
        """Tokens in the longest example."""
        ...

    def draw(self, random: np.random.Philox) -> Example:
        """The next example, which begins with START. It depends on the generator's state alone.

        Only ``random_raw`` is drawn from, which is the same in every version of numpy.
        """
        ...
