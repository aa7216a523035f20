"""The state of mixers that look at earlier tokens: a few vectors a token, in a ring where a window ends their use.

Axes: B batch, T tokens of this pass, S stored tokens, D last axis of whatever is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockzoo.cache.states import LINE
from blockzoo.step import Keys, Step


class TokenState:
    """Tensors with one entry a token: keys and values, or a compressed latent; a ring where the layer has a window.

    Each stored tensor has shape (B, *lead, S, D) for an entry of ``shapes`` (*lead, D). A full state holds
    ``max_length`` tokens, a windowed one min(window, max_length).
    """

    def __init__(
        self,
        batch_size: int,
        max_length: int,
        shapes: Sequence[tuple[int, ...]],
        *,
        window: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.capacity = max_length if window is None else min(window, max_length)
        self.window = window
        self.tensors = [
            torch.empty((batch_size, *shape[:-1], self.capacity, shape[-1]), dtype=dtype, device=device)
            for shape in shapes
        ]  # memory that nobody writes to costs nothing, so a long cache is taken up as it fills
        self.n_stored = 0  # tokens written so far: of every row, or at most
        self._own: Tensor | None = None  # positions (B, capacity), once rows differ; before, n_stored says them all

    @property
    def extent(self) -> int:
        """How many slots are in use, at most."""
        return min(self.n_stored, self.capacity)

    @property
    def _evicted(self) -> bool:
        """Whether a ring has written over tokens."""
        return self.n_stored > self.capacity

    @property
    def positions(self) -> Tensor:
        """The position that each slot holds (B, capacity), -1 where it is empty."""
        if self._own is not None:
            return self._own
        held = self.tensors[0]
        line = torch.arange(self.capacity, device=held.device)
        return _held_by(line, self.n_stored, self.capacity).expand(len(held), -1)

    def extend(self, step: Step, *new: Tensor) -> tuple[tuple[Tensor, ...], Keys]:
        """Store the tokens of this pass, each ``new`` (B, *lead, T, D).

        Returns what attention looks at, old and new together, one tensor (B, *lead, S, D) of its dtype for each,
        and their Keys. A windowed state hands out old plus new before it evicts.
        """
        n_tokens = step.positions.shape[1]
        if n_tokens > 1 and self.n_stored == 0:
            self._write(step, new)
            return new, step.keys
        if n_tokens > 1 and self.n_stored + n_tokens > self.capacity and self.window is not None:
            # later tokens would evict what the earlier ones still see
            joined = tuple(torch.cat(pair, dim=-2) for pair in zip(self._stored(new), new, strict=True))
            keys = Keys(torch.cat([self.positions[:, : self.extent], step.positions], dim=1), False)
            self._write(step, new)
            return joined, keys
        self._write(step, new)
        return self._stored(new), self._keys(step, self.extent)

    def _stored(self, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What is stored, in the dtypes of ``like``."""
        extent, pairs = self.extent, zip(self.tensors, like, strict=True)
        return tuple(tensor.narrow(-2, 0, extent).to(part.dtype) for tensor, part in pairs)

    def _keys(self, step: Step, extent: int) -> Keys:
        if self._own is not None:
            return Keys(self._own.narrow(1, 0, extent), False)

        def keys() -> Keys:
            line = step.tables.get(LINE)
            slots = line[:extent] if isinstance(line, Tensor) else torch.arange(extent, device=step.positions.device)
            return Keys(_held_by(slots, self.n_stored, self.capacity).expand(len(step.positions), extent), True)

        if torch.compiler.is_compiling():  # as a key a length would be one program each
            return keys()
        return step.table(("keys", self.n_stored, self.capacity), keys)

    def _write(self, step: Step, new: tuple[Tensor, ...]) -> None:
        n_tokens = step.positions.shape[1]
        if self._own is None and step.consecutive and step.start is not None:
            self._write_alike(step.start, n_tokens, new)
        else:
            self._write_each(step, new)
        self.n_stored += n_tokens

    def _write_alike(self, start: int, n_tokens: int, new: tuple[Tensor, ...]) -> None:
        """Every row has the same slots, and slots are positions."""
        kept = min(n_tokens, self.capacity)
        first = (start + n_tokens - kept) % self.capacity
        head = min(kept, self.capacity - first)
        for tensor, part in zip(self.tensors, new, strict=True):
            part = part.detach()
            tensor.narrow(-2, first, head).copy_(part.narrow(-2, n_tokens - kept, head))
            if head < kept:
                tensor.narrow(-2, 0, kept - head).copy_(part.narrow(-2, n_tokens - kept + head, kept - head))

    def _write_each(self, step: Step, new: tuple[Tensor, ...]) -> None:
        self._own = self.positions.clone() if self._own is None else self._own
        more = min(step.positions.shape[1], self.capacity - self.extent)
        for tensor in self.tensors:  # rows that are shorter than others leave slots that must weigh nothing
            tensor.narrow(-2, self.extent, more).zero_()
        rows, columns, slots = step.table(("slots", self.capacity), lambda: _places(step.slots, self.capacity))
        self._own[rows, slots] = step.positions[rows, columns]
        for tensor, part in zip(self.tensors, new, strict=True):
            # token axis next to the batch axis, so that (row, slot) pairs index it
            tensor.movedim(-2, 1)[rows, slots] = part.detach().movedim(-2, 1)[rows, columns].to(tensor.dtype)

    def even_steps(self) -> int:
        """Until a full state is full, and until a ring comes to its end; 0 where rows differ."""
        if self._own is not None:
            return 0
        return self.capacity - (self.n_stored if self.window is None else self.n_stored % self.capacity)

    def count(self, n: int) -> None:
        self.n_stored += n

    def select(self, rows: Tensor) -> None:
        self._own = None if self._own is None else self._own[rows]
        self.tensors = [self._selected(tensor, rows) for tensor in self.tensors]

    def _selected(self, tensor: Tensor, rows: Tensor) -> Tensor:
        kept = tensor.new_empty((len(rows), *tensor.shape[1:]))
        kept.narrow(-2, 0, self.extent).copy_(tensor.narrow(-2, 0, self.extent)[rows])
        return kept

    def reset(self) -> None:
        self._own = None
        self.n_stored = 0

    def can_rollback(self, length: int) -> bool:
        """Whether ``rollback(length)`` would bring back exactly what was: not once a ring has evicted."""
        return not self._evicted

    def rollback(self, length: int) -> None:
        """Forget all slots from ``length`` on."""
        self.n_stored = min(self.n_stored, length)
        if self._own is not None:
            self._own[:, length:] = -1

    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors)


def _held_by(slots: Tensor, n_stored: int, capacity: int) -> Tensor:
    """Which position each of these slots holds after so many tokens, -1 for none: the latest that fell on it."""
    if n_stored > capacity:
        return n_stored - 1 - (n_stored - 1 - slots) % capacity
    return slots if len(slots) <= n_stored else torch.where(slots < n_stored, slots, -1)


def _places(slots: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and slot of each token of slots (B, T) that a state of this capacity keeps."""
    last = slots.amax(dim=1, keepdim=True)
    rows, columns = ((slots >= 0) & (slots > last - capacity)).nonzero(as_tuple=True)
    return rows, columns, slots[rows, columns] % capacity
