"""What a layer's memory is: a state that its mixer makes, opaque to the decoder, and what more it may be able to do."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

LINE = "0, 1, 2, ... as far as a cache is long"
"""Key of a Step's table that a cache brings: consecutive positions are views of it."""


@runtime_checkable
class State(Protocol):
    """One layer's memory. Rolling back is a capability that a state may lack: see ``Rollback``."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be repeated."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...

    def nbytes(self) -> int:
        """Bytes held, all rows together."""
        ...


@runtime_checkable
class Rollback(Protocol):
    """The capability of forgetting the latest tokens."""

    def can_rollback(self, length: int) -> bool:
        """Whether the first ``length`` tokens can be brought back exactly."""
        ...

    def rollback(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        ...


@runtime_checkable
class Even(Protocol):
    """The capability of storing evenly, so that a step can be recorded and replayed (``blockzoo.recording``).

    ``tensors``: all that it stores. Over ``even_steps()`` further steps of one token, what is written and what is
    read moves on by the same amount each step, and nothing else of the state decides what is computed.
    """

    tensors: list[Tensor]

    def even_steps(self) -> int: ...

    def count(self, n: int) -> None:
        """Take note of n tokens a row that a replay has stored, or of the last n not having been stored after all."""
        ...
