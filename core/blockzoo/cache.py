"""What generation remembers: one state a layer, made by the layer's own mixer and opaque to the decoder.

``ModelCache`` owns the lengths and advances them once a forward; nothing else remembers a position.

Axes: B batch, T tokens of this pass, S stored tokens, D last axis of whatever is stored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from blockzoo.errors import InputError
from blockzoo.step import Keys, Phase, Step

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


@dataclass(frozen=True)
class Bookmark:
    """A place in a cache: its length, and copies of the states that can't be rolled back to it."""

    length: int
    states: list[State | None]


class ModelCache:
    """The states of all layers and the length of each row. ``model.new_cache`` makes it."""

    def __init__(self, states: Sequence[State | None], batch_size: int, max_length: int, device: torch.device) -> None:
        self.states = list(states)
        self.batch_size = batch_size
        self.max_length = max_length
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._line = torch.arange(max_length, device=device)
        self._uniform: int | None = 0  # the length of every row, where they are all alike: kept on the host

    def step(self, shape: tuple[int, int], positions: Tensor | None, phase: Phase) -> Step:
        """The Step for ``shape`` (B, T) further tokens. Raises InputError past ``max_length``."""
        batch_size, n_tokens = shape
        if batch_size != self.batch_size:
            raise InputError(f"the cache holds {self.batch_size} rows, the tokens have {batch_size}")
        if positions is None and self._uniform is not None:
            start = self._uniform
            self._check(start + n_tokens)
            line = self._line[start : start + n_tokens].expand(batch_size, n_tokens)
            return Step(line, line, phase, consecutive=True, start=start, tables={LINE: self._line})
        if positions is None:
            slots = self.lengths[:, None] + torch.arange(n_tokens, device=self.lengths.device)
            self._check(int(slots.max()) + 1)
            return Step(slots, slots, phase, consecutive=False)
        valid = positions >= 0
        slots = torch.where(valid, self.lengths[:, None] + valid.cumsum(1) - 1, -1)
        self._check(int(slots.max()) + 1)
        return Step(positions, slots, phase, consecutive=False)

    @property
    def length(self) -> int | None:
        """The length of every row, where they are all alike."""
        return self._uniform

    def even_steps(self) -> int:
        """Over how many further steps of one token every state stores evenly (``Even``)."""
        states = [state for state in self.states if state is not None]
        even = [state.even_steps() for state in states if isinstance(state, Even)]
        if self._uniform is None or len(even) != len(states):
            return 0
        return min([*even, self.max_length - self._uniform])

    def moving(self) -> list[Tensor]:
        """All that steps of even states write to, or take views of."""
        return [self._line, *(tensor for state in self.states for tensor in getattr(state, "tensors", ()))]

    @contextmanager
    def seen_as(self, wrap: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Within, a step of even states finds ``wrap(tensor)`` for each of its tensors. Counts nothing if it fails."""
        states = [state for state in self.states if state is not None]
        kept = [(state, state.tensors) for state in states if isinstance(state, Even)]
        line, length = self._line, self._uniform
        self._line = wrap(line)
        for state, tensors in kept:
            state.tensors = [wrap(tensor) for tensor in tensors]
        stored = [state.even_steps() for state, _ in kept]
        try:
            yield
        except Exception:
            self._uniform = length
            for (state, _), left in zip(kept, stored, strict=True):
                if state.even_steps() != left:
                    state.count(-1)
            raise
        finally:
            self._line = line
            for state, tensors in kept:
                state.tensors = tensors

    def count(self, n: int) -> None:
        """Take note of n tokens a row that a replay has stored in all states."""
        assert self._uniform is not None
        self._uniform += n
        self.lengths.fill_(self._uniform)
        for state in self.states:
            if state is not None:
                state.count(n)  # type: ignore[attr-defined]

    def advance(self, step: Step) -> None:
        """Count the tokens of a step that every layer has seen."""
        if step.start is not None and self._uniform is not None:
            self._uniform = step.start + step.positions.shape[1]
            self.lengths.fill_(self._uniform)
        else:
            self._uniform = None
            self.lengths = self.lengths + (step.slots >= 0).sum(1)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order (beam search, finished prompts)."""
        self.lengths = self.lengths[rows]
        self.batch_size = len(rows)
        for state in self.states:
            if state is not None:
                state.select(rows)

    def reset(self) -> None:
        """Forget everything."""
        self.lengths.zero_()
        self._uniform = 0
        for state in self.states:
            if state is not None:
                state.reset()

    def can_rollback(self, length: int) -> bool:
        """Whether every layer can forget all but the first ``length`` tokens."""
        states = [state for state in self.states if state is not None]
        return all(isinstance(state, Rollback) and state.can_rollback(length) for state in states)

    def bookmark(self) -> Bookmark:
        """This place, to return to later whatever the layers' states can. Needs rows of one length.

        States that may come to lack the capability (rings, recurrences) are copied: their size is bounded.
        """
        assert self._uniform is not None
        full = [isinstance(state, TokenState) and state.window is None for state in self.states]
        copies = [None if plain else copy.deepcopy(state) for state, plain in zip(self.states, full, strict=True)]
        return Bookmark(self._uniform, copies)

    def return_to(self, bookmark: Bookmark) -> None:
        """Forget what came after a bookmark of this cache, which can be returned to again."""
        for index, saved in enumerate(bookmark.states):
            state = self.states[index]
            if saved is not None:
                self.states[index] = copy.deepcopy(saved)
            elif isinstance(state, Rollback):
                state.rollback(bookmark.length)
        self.lengths.fill_(bookmark.length)
        self._uniform = bookmark.length

    def rollback(self, length: int) -> None:
        """Forget all but the first ``length`` tokens of every row.

        Raises InputError when a layer's state lacks that capability, before anything is forgotten.
        """
        if not 0 <= length <= int(self.lengths.min()):
            raise InputError(f"can't roll back to {length} tokens: the shortest row has {int(self.lengths.min())}")
        states = [state for state in self.states if state is not None]
        for state in states:
            if not isinstance(state, Rollback) or not state.can_rollback(length):
                raise InputError(f"can't roll back to {length} tokens: a {type(state).__name__} can't bring them back")
        for state in states:
            assert isinstance(state, Rollback)
            state.rollback(length)
        self.lengths.clamp_(max=length)
        self._uniform = length

    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(state.nbytes() for state in self.states if state is not None)

    def _check(self, length: int) -> None:
        if length > self.max_length:
            raise InputError(
                f"{length} tokens don't fit a cache of max_length {self.max_length}: make a longer one (new_cache) or"
                " shorten the prompt"
            )


def make_cache(
    mixers: Sequence[nn.Module | None], batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype
) -> ModelCache:
    """A cache for these mixers, one state each; None where a layer has none."""
    states = [
        None if mixer is None else mixer.new_state(batch_size, max_length, device, dtype)  # type: ignore[operator]
        for mixer in mixers
    ]
    return ModelCache(states, batch_size, max_length, device)
