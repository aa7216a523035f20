"""From two traces of successive steps to a tape that makes every later one.

What differs between the two may be views of the cache only: they move on by the same amount each step. The first
trace's memory is what all later steps compute in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from blockzoo.recording.player import Noted, Play, Player
from blockzoo.recording.trace import Call, Trace, UnrecordableError, leaves, mapped, memory_of, tensors_in


@dataclass(frozen=True)
class Tape:
    """``play(n)`` makes the calls of the step n after the first trace's. ``written``: where the two traces wrote to
    memory from outside.
    """

    play: Play
    written: list[Tensor]


def tape(first: Trace, second: Trace, result: Tensor, moving: Collection[int], players: Sequence[Player]) -> Tape:
    """Of the calls of ``first`` those that ``result`` or memory from outside depends on.

    ``moving``: the memory whose views may differ in ``second``, one step later. Raises UnrecordableError.
    """
    if [call.function for call in first.calls] != [call.function for call in second.calls]:
        raise UnrecordableError("two successive steps make different calls")
    _check_writes(first.calls, moving)
    same: dict[int, int] = {}  # memory of the second trace -> that of the first that it stands for
    for one, other in zip(first.calls, second.calls, strict=True):
        for tensor, twin in zip(one.written(), other.written(), strict=True):
            same[memory_of(twin)] = memory_of(tensor)
    pairs = [
        (one, other)
        for one, other, needed in zip(first.calls, second.calls, _needed(first.calls, result), strict=True)
        if needed
    ]
    noted = [_noted(one, other, same, moving) for one, other in pairs]
    outside = [t for pair in pairs if pair[0].in_place for call in pair for t in call.written()]
    return Tape(_played(noted, players), outside)


def _check_writes(calls: Sequence[Call], moving: Collection[int]) -> None:
    """Raise where a call writes to memory that no call gave out and the cache does not hold: it would keep it."""
    known = set(moving)
    for call in calls:
        written = {memory_of(t) for t in call.written()}
        if call.in_place and not written <= known:
            raise UnrecordableError(f"{call.name} writes to memory that is not the step's")
        known |= written


def _needed(calls: Sequence[Call], result: Tensor) -> list[bool]:
    """Which calls write what is read later, or to memory that was there before the first of them."""
    fresh: set[int] = set()
    outside = []
    for call in calls:
        written = {memory_of(t) for t in call.written()}
        outside.append(call.in_place and not written <= fresh)
        fresh |= set() if call.in_place else written
    wanted, kept = {memory_of(result)}, []
    for call, always in zip(reversed(calls), reversed(outside), strict=True):
        kept.append(always or any(memory_of(t) in wanted for t in call.written()))
        if kept[-1]:
            wanted |= {memory_of(t) for t in call.read()}
    return kept[::-1]


def _noted(one: Call, other: Call, same: Mapping[int, int], moving: Collection[int]) -> Noted:
    for tensor, twin in zip(one.written(), other.written(), strict=True):
        if tensor.shape != twin.shape and memory_of(tensor) not in moving:
            raise UnrecordableError(f"{one.name} gives {tuple(tensor.shape)}, and a step later {tuple(twin.shape)}")
    there = leaves((other.args, other.kwargs))
    args, kwargs = mapped(lambda here: _later(one.name, here, next(there), same, moving), (one.args, one.kwargs))
    if any(a is not b for a, b in zip(leaves(kwargs), leaves(one.kwargs), strict=True)):
        raise UnrecordableError(f"{one.name} is given what moves by name")
    return Noted(one.name, one.function, one.args, one.kwargs, tuple(one.written()), args)


def _later(name: str, here: Any, there: Any, same: Mapping[int, int], moving: Collection[int]) -> Any:
    """An argument one step on, over the memory of the first trace."""
    if not isinstance(here, Tensor):
        if type(here) is not type(there) or here != there:
            raise UnrecordableError(f"{name} is called with {here}, and a step later with {there}")
        return here
    if same.get(memory_of(there), memory_of(there)) != memory_of(here):
        if memory_of(there) not in same and _same_values(here, there):
            return here  # a constant that the model makes anew each step
        raise UnrecordableError(f"{name} reads a tensor that is made anew each step, with other values")
    if _geometry(here) == _geometry(there):
        return here
    if memory_of(here) not in moving or here.stride() != there.stride():
        raise UnrecordableError(f"{name} reads {tuple(here.shape)}, and a step later {tuple(there.shape)}")
    return _view(here, there.shape, there.storage_offset())


def _same_values(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def _view(tensor: Tensor, shape: Sequence[int], offset: int) -> Tensor:
    return tensor.as_strided(shape, tensor.stride(), offset)


def _played(noted: Sequence[Noted], players: Sequence[Player]) -> Play:
    def player_of(call: Noted) -> Player | None:
        return next((player for player in players if player.takes(call)), None)

    parts: list[Play] = []
    for player, group in groupby(noted, key=player_of):
        calls = list(group)
        parts.extend([_replayed(call) for call in calls] if player is None else [player.prepare(calls)])

    def play(steps: int) -> None:
        for part in parts:
            part(steps)

    return play


def _replayed(call: Noted) -> Play:
    """The call made by PyTorch, its result copied to where it was."""
    args = _moved(call)

    def play(steps: int) -> None:
        given = call.function(*args(steps), **call.kwargs)
        for out, new in zip(call.outs, tensors_in(given), strict=False):
            if memory_of(new) != memory_of(out):  # not written in place
                out.copy_(new)

    return play


def _moved(call: Noted) -> Callable[[int], tuple[Any, ...]]:
    if all(a is b for a, b in zip(leaves(call.args), leaves(call.later), strict=True)):
        return lambda steps: call.args

    def moved(a: Any, b: Any, steps: int) -> Any:
        if a is b:
            return a
        shape = [n + steps * (m - n) for n, m in zip(a.shape, b.shape, strict=True)]
        return _view(a, shape, a.storage_offset() + steps * (b.storage_offset() - a.storage_offset()))

    def args(steps: int) -> tuple[Any, ...]:
        later = leaves(call.later)
        return mapped(lambda a: moved(a, next(later), steps), call.args)

    return args
