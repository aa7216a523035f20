"""What generation remembers: one state a layer, made by the layer's own mixer and opaque to the decoder.

``ModelCache`` owns the lengths and advances them once a forward; nothing else remembers a position.

Axes: B batch, T tokens of this pass, S stored tokens, D last axis of whatever is stored.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from blockzoo.errors import InputError
from blockzoo.step import Keys, Phase, Step


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
        self.positions = torch.full((batch_size, self.capacity), -1, dtype=torch.int64, device=device)
        self.tensors = [
            torch.zeros((batch_size, *shape[:-1], self.capacity, shape[-1]), dtype=dtype, device=device)
            for shape in shapes
        ]
        self.consecutive = True  # every row holds the same slots, in order, without padding
        self.extent = 0  # an upper bound on the slots in use, kept on the host
        self.evicted = False

    def extend(self, step: Step, *new: Tensor) -> tuple[tuple[Tensor, ...], Keys]:
        """Store the tokens of this pass, each ``new`` (B, *lead, T, D).

        Returns what attention looks at, old and new together, one tensor (B, *lead, S, D) of its dtype for each,
        and their Keys. A windowed state hands out old plus new before it evicts.
        """
        empty = self.extent == 0
        n_tokens = step.positions.shape[1]
        uniform = self.consecutive and step.consecutive and step.start is not None
        ring = self.window is not None and self.extent + n_tokens > self.capacity
        if empty and n_tokens > 1:
            self._write(step, new, uniform)
            return new, step.keys
        if ring and n_tokens > 1:  # later tokens would evict what the earlier ones still see
            pairs = zip(self.tensors, new, strict=True)
            joined = tuple(torch.cat([tensor.to(part.dtype), part], dim=-2) for tensor, part in pairs)
            keys = Keys(torch.cat([self.positions, step.positions], dim=1), False)
            self._write(step, new, uniform)
            return joined, keys
        self._write(step, new, uniform)
        stored = [tensor[..., : self.extent, :].to(part.dtype) for tensor, part in zip(self.tensors, new, strict=True)]
        return tuple(stored), Keys(self.positions[:, : self.extent], uniform)

    def _write(self, step: Step, new: tuple[Tensor, ...], uniform: bool) -> None:
        n_tokens = step.positions.shape[1]
        if uniform:
            assert step.start is not None
            kept = min(n_tokens, self.capacity)
            first = (step.start + n_tokens - kept) % self.capacity
            head = min(kept, self.capacity - first)
            for tensor, part in zip(
                (*self.tensors, self.positions[..., None]), (*new, step.positions[..., None]), strict=True
            ):
                part = part[..., n_tokens - kept :, :].detach()
                tensor[..., first : first + head, :] = part[..., :head, :]
                if head < kept:
                    tensor[..., : kept - head, :] = part[..., head:, :]
        else:
            last = step.slots.amax(dim=1, keepdim=True)
            rows, columns = ((step.slots >= 0) & (step.slots > last - self.capacity)).nonzero(as_tuple=True)
            slots = step.slots[rows, columns] % self.capacity
            self.positions[rows, slots] = step.positions[rows, columns]
            for tensor, part in zip(self.tensors, new, strict=True):
                # token axis next to the batch axis, so that (row, slot) pairs index it
                tensor.movedim(-2, 1)[rows, slots] = part.detach().movedim(-2, 1)[rows, columns].to(tensor.dtype)
        self.consecutive = uniform
        self.evicted = self.evicted or self.extent + n_tokens > self.capacity
        self.extent = min(self.extent + n_tokens, self.capacity)

    def select(self, rows: Tensor) -> None:
        self.positions = self.positions[rows]
        self.tensors = [tensor[rows] for tensor in self.tensors]

    def reset(self) -> None:
        self.positions.fill_(-1)
        self.consecutive = True
        self.extent = 0
        self.evicted = False

    def can_rollback(self, length: int) -> bool:
        """Whether ``rollback(length)`` would bring back exactly what was: not once a ring has evicted."""
        return not self.evicted

    def rollback(self, length: int) -> None:
        """Forget all slots from ``length`` on."""
        self.positions[:, length:] = -1
        self.extent = min(self.extent, length)

    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors)


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
        self._uniform: int | None = 0  # the length of every row, where they are all alike: kept on the host

    def step(self, shape: tuple[int, int], positions: Tensor | None, phase: Phase) -> Step:
        """The Step for ``shape`` (B, T) further tokens. Raises InputError past ``max_length``."""
        batch_size, n_tokens = shape
        if batch_size != self.batch_size:
            raise InputError(f"the cache holds {self.batch_size} rows, the tokens have {batch_size}")
        if positions is None and self._uniform is not None:
            start = self._uniform
            self._check(start + n_tokens)
            line = torch.arange(start, start + n_tokens, device=self.lengths.device).expand(batch_size, n_tokens)
            return Step(line, line, phase, consecutive=True, start=start)
        if positions is None:
            slots = self.lengths[:, None] + torch.arange(n_tokens, device=self.lengths.device)
            self._check(int(slots.max()) + 1)
            return Step(slots, slots, phase, consecutive=False)
        valid = positions >= 0
        slots = torch.where(valid, self.lengths[:, None] + valid.cumsum(1) - 1, -1)
        self._check(int(slots.max()) + 1)
        return Step(positions, slots, phase, consecutive=False)

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
