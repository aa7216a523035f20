"""Reading one token a row, by the model's code or by a recording of it.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blockzoo.faults import title
from blockzoo.recording.anatomy import Anatomy, blocks_of, declared
from blockzoo.recording.tape import Tape, tape
from blockzoo.recording.trace import Trace, memory_of

if TYPE_CHECKING:
    from blockzoo.cache import ModelCache
    from blockzoo.model import Decoder

LOG = logging.getLogger(__name__)
WORTH = 8
"""Steps that a recording must serve to be made: two are noted, which takes longer than making them."""


@dataclass
class _Take:
    """A noted step: the lengths of the cache at which it, or a recording of it, may stand for a step."""

    tokens: Tensor  # (B, 1): where its calls find them
    begin: int
    end: int
    names: list[object]  # what its calls name, and so must stay what it was
    anatomy: Anatomy  # and what the model was
    trace: Trace
    logits: Tensor


@dataclass(frozen=True)
class _Recording:
    take: _Take
    tape: Tape


class Steps:
    """``steps(tokens)``: (B, T) int64 -> logits (B, 1, V) of the last token, as ``model(tokens, cache=cache,
    last_only=True)`` gives them. Hold it while one answer is generated.

    Steps of one token are recorded where they can be: on a CPU, where a plugin plays recordings (``Player``), with rows
    of one length and states that store evenly. ``why_not`` says why they aren't.
    """

    def __init__(self, model: Decoder, cache: ModelCache) -> None:
        self.model = model
        self.cache = cache
        self.why_not = _refusal(model)
        self._first: _Take | None = None
        self._recording: _Recording | None = None

    @property
    def recorded(self) -> bool:
        """Whether there is a recording now."""
        return self._recording is not None

    @torch.no_grad()
    def __call__(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        length = self.cache.length
        if self.why_not is not None or tokens.shape[1] != 1 or positions is not None or length is None:
            return self._plain(tokens, positions)
        names = [self.model.bindings, *self.cache.moving()]
        recording, first = self._recording, self._first
        if recording is not None and _stands(recording.take, tokens, names, length) and self.cache.even_steps():
            return self._replayed(recording, tokens, length)
        if first is not None and _stands(first, tokens, names, length) and length == first.begin + 1:
            return self._second(first, tokens)
        return self._noted(tokens, length, names)

    def _plain(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.model(tokens, positions=positions, cache=self.cache, last_only=True)

    def _replayed(self, recording: _Recording, tokens: Tensor, length: int) -> Tensor:
        self.model.check(tokens)
        recording.take.tokens.copy_(tokens)
        recording.tape.play(length - recording.take.begin)
        self.cache.count(1)
        return recording.take.logits.clone()

    def _noted(self, tokens: Tensor, length: int, names: list[object]) -> Tensor:
        """A step that is noted, where enough can follow that are like it."""
        self._first = self._recording = None
        even = self.cache.even_steps()
        made = self._traced(tokens.clone(), tokens) if even >= WORTH else None
        if made is None:
            return self._plain(tokens)
        at, trace, logits = made
        self._first = _Take(at, length, length + even, names, Anatomy(self.model), trace, logits)
        return logits.clone()

    def _second(self, first: _Take, tokens: Tensor) -> Tensor:
        """A step that is noted, and from both a recording, which must give the logits that the step did."""
        self._first = None
        made = self._traced(first.tokens, tokens)
        if made is None:
            return self._plain(tokens)
        _, trace, logits = made
        moving = [memory_of(tensor) for tensor in self.cache.moving()]
        try:
            recording = _Recording(first, tape(first.trace, trace, first.logits, moving, self.model.players))
        except Exception as error:  # a player is somebody's code, too
            self._give_up(_reason(error))
            return logits
        written = [(tensor, tensor.clone()) for tensor in recording.tape.written]
        recording.tape.play(1)
        if _alike(first.logits, logits):
            self._recording = recording
        else:
            for tensor, before in written:
                tensor.copy_(before)
            self._give_up("a replay gives other logits than the step itself")
        return logits

    def _traced(self, at: Tensor, tokens: Tensor) -> tuple[Tensor, Trace, Tensor] | None:
        """A step of these tokens, found ``at``; its calls and logits, or None, and nothing done."""
        self.model.check(tokens)
        at.copy_(tokens)
        trace = Trace()
        try:
            with self.cache.seen_as(trace.wrap):
                step = self.cache.step((len(tokens), 1), None, "decode")
                logits, _ = self.model.compute(trace.wrap(at), step, self.cache, last_only=True)
        except Exception as error:  # whatever a block does with a tensor that has no values
            self._give_up(_reason(error))
            return None
        return at, trace, trace.unwrap(logits)

    def _give_up(self, why: str) -> None:
        LOG.debug("decoding is not recorded: %s", why)
        self.why_not = why


def _stands(take: _Take, tokens: Tensor, names: list[object], length: int) -> bool:
    alike = len(tokens) == len(take.tokens) and len(names) == len(take.names)
    same = alike and take.begin <= length < take.end and all(a is b for a, b in zip(names, take.names, strict=True))
    return same and take.anatomy.holds()


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _alike(replayed: Tensor, made: Tensor) -> bool:
    """Within what rounding may do: a player may sum in another order than PyTorch."""
    return bool((replayed - made).abs().max() <= 2e-2 * made.abs().max())


def _refusal(model: Decoder) -> str | None:
    if model.device.type != "cpu":
        return "recordings are for CPUs"
    if not model.players:
        return "no plugin plays recordings here"
    if model.training:
        return "the model trains"
    unknown = next((block for block in blocks_of(model.config) if not declared(block)), None)
    if unknown is not None:
        return f"{title(unknown)} does not declare recordable"
    if Anatomy(model).watched():
        return "modules have forward hooks, which a recording would pass by"
    return None
