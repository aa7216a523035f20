"""Pieces -> token ids: text only ever gives text, and a control token is exactly one id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockzoo.chat.format import ChatFormat, Control, Piece, Settings, text_of
from blockzoo.chat.messages import Conversation
from blockzoo.errors import InputError

if TYPE_CHECKING:
    from blockzoo.tokenizers import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """What the model reads: the ids, and the same as text with control tokens by their names."""

    tokens: tuple[int, ...]
    text: str


def control_id(tokenizer: Tokenizer, word: str) -> int:
    """The id of a control token. Raises InputError where the vocabulary has no such token."""
    found = tokenizer.encode(word, control=True)
    if len(found) != 1:
        raise InputError(
            f"the tokenizer has no control token {word}, so the family's chat format can't be written with it: this"
            " model was trained with another tokenizer; `blockzoo generate` continues plain text"
        )
    return found[0]


def control_words(tokenizer: Tokenizer, words: Iterable[str]) -> dict[int, str]:
    """id -> word, for readers. Raises InputError where one is missing."""
    return {control_id(tokenizer, word): word for word in words}


def encode(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt. Raises InputError where the tokenizer lacks one of its control tokens."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, Control):
            ids.append(control_id(tokenizer, piece.word))
        else:
            ids += tokenizer.encode_text(piece)
    return ids


def prompt(format: ChatFormat, conversation: Conversation, settings: Settings, tokenizer: Tokenizer) -> Prompt:
    """A conversation as its model reads it."""
    pieces = format.render(conversation, settings)
    return Prompt(tuple(encode(pieces, tokenizer)), text_of(pieces))
