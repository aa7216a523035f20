"""What one forward pass tells every mixer: where its tokens stand.

Axes: B batch, T tokens of this pass, S stored keys.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from torch import Tensor

Phase = Literal["train", "prefill", "decode"]
PHASES: tuple[Phase, ...] = ("train", "prefill", "decode")

T = TypeVar("T")


@dataclass(frozen=True)
class Keys:
    """Where the keys of an attention stand.

    ``positions`` (B, S) int64, -1 where there is no key. ``consecutive`` promises that the keys are S consecutive
    tokens of every row which end with the row's last query, or (a window's ring, one query) that the query sees them
    all: query i of T then sees keys 0..S-T+i, a window apart, and a kernel may go by index instead of by position.
    """

    positions: Tensor
    consecutive: bool


@dataclass(frozen=True)
class Step:
    """One forward pass.

    ``positions`` (B, T) int64: the position of each token, -1 where padding. ``slots`` (B, T) int64: which token of its
    row it is, counted from the first that the cache saw, -1 where padding (equal to positions unless the caller gave
    other ones). ``phase`` chooses the kernel. ``consecutive``: no padding, positions rise by one.
    """

    positions: Tensor
    slots: Tensor
    phase: Phase
    consecutive: bool
    start: int | None = None  # the slot of the first token, where it is the same in every row
    tables: dict[Hashable, object] = field(default_factory=dict, compare=False)

    @property
    def keys(self) -> Keys:
        """The tokens of this pass as keys: what attention without a cache looks at."""
        return Keys(self.positions, self.consecutive)

    def table(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, once a forward for each key: rotation tables, masks."""
        if key not in self.tables:
            self.tables[key] = compute()
        return self.tables[key]  # type: ignore[return-value]
