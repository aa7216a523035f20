"""Pieces of text, and which of them are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

PIECE = 1 << 16
"""Characters of text that are held out or trained on together, about."""


class Piece(NamedTuple):
    """Some text that is trained on or held out as a whole."""

    text: str
    held_out: bool


def piece_size(total: int) -> int:
    """Characters of a piece in a text of ``total``: smaller in a small text, so that some can be held out."""
    return min(PIECE, max(1, total // 40))


def cut(parts: Iterable[str], size: int) -> Iterator[str]:
    """A text that comes in parts -> pieces that end at line ends, of ``size`` characters or a line more."""
    text, start = "", 0
    for part in parts:
        text, start = text[start:] + part, 0
        while len(text) - start >= 2 * size:
            end = _end(text, start, size)
            yield text[start:end]
            start = end
    while start < len(text):
        end = _end(text, start, size)
        yield text[start:end]
        start = end


def _end(text: str, start: int, size: int) -> int:
    line_end = text.find("\n", start + size, start + 2 * size)
    # a line longer than a piece (minified data) is cut where it is
    return line_end + 1 if line_end >= 0 else start + size


def choose(pieces: Sequence[tuple[str, int]], wanted: float) -> frozenset[int]:
    """Which of (name, characters) are held out: those whose names hash lowest, until ``wanted`` characters are reached.

    So a new file elsewhere moves little. One piece at least is left to train on.
    """
    order = sorted(range(len(pieces)), key=lambda index: hashlib.sha256(pieces[index][0].encode()).digest())
    chosen: set[int] = set()
    taken = 0
    for index in order[:-1]:
        if taken >= wanted:
            break
        chosen.add(index)
        taken += pieces[index][1]
    return frozenset(chosen)


def is_held_out(name: str, fraction: float) -> bool:
    """The same for a stream, whose length nobody knows: whether a name's hash falls into the lowest ``fraction``."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < fraction * 2**64
