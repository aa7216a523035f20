"""The states of all layers of a model, and how many tokens each row has.

``ModelCache`` owns the lengths and advances them once a forward; nothing else remembers a position.

Axes: B batch, T tokens of this pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blockzoo.cache.states import LINE, Even, Rollback, State
from blockzoo.cache.token_state import TokenState
from blockzoo.errors import InputError
from blockzoo.step import Phase, Step


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
        self._evenly = all(isinstance(state, Even) for state in states if state is not None)  # dear to ask every token
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
        if self._uniform is None or not self._evenly:
            return 0
        steps = [state.even_steps() for state in self.states if state is not None]  # type: ignore[attr-defined]
        return min([*steps, self.max_length - self._uniform])

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
