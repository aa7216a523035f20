"""What a recording is made of, and who makes its calls again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Noted:
    """One call of a recording: ``function`` of ``args`` gave ``outs``, into which it is to write again.

    ``later``: the args one step on. They are ``args``, but for views of the cache, whose offsets and sizes grow by the
    same amount each step.
    """

    name: str  # "add", "copy_", "layer_norm"; of an op NAMESPACE::NAME
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[Tensor, ...]
    later: tuple[Any, ...]


Play = Callable[[int], None]
"""Makes calls again as they are so many steps after the recorded ones."""


class Player(Protocol):
    """Makes some calls sooner than PyTorch does: a stretch of them at once."""

    def takes(self, call: Noted) -> bool:
        """Whether it can make this call."""
        ...

    def prepare(self, calls: Sequence[Noted]) -> Play:
        """Ready to make these calls, all of which it takes, in order."""
        ...
