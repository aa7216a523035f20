"""What a family offers for chat: how a conversation is written for its models, and how what they write is read.

A prompt is a list of pieces: plain text, which never gives a control token whatever stands in it, and control tokens,
which only a format puts there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from blockzoo.chat.messages import Conversation, Delta
from blockzoo.errors import InputError, nearest

if TYPE_CHECKING:
    from blockzoo.tokenizers import Tokenizer


@dataclass(frozen=True)
class Control:
    """One token by its name in the vocabulary, ``<|im_end|>``."""

    word: str


Piece = str | Control


@dataclass(frozen=True)
class Settings:
    """What a conversation may ask of the model's thinking, and the ``date`` (2025-12-31) where a format tells it.

    ``reasoning``: how much, one of the format's ``efforts``; None: what the format takes as usual. ``thinking``:
    whether at all.
    """

    reasoning: str | None = None
    thinking: bool = True
    date: str | None = None


class Reader(Protocol):
    """Reads one message of the assistant, token by token, the ones that end it left out."""

    def push(self, token: int) -> list[Delta]:
        """What this token adds."""
        ...

    def close(self) -> list[Delta]:
        """What was held back: nothing more comes."""
        ...


class ChatFormat(Protocol):
    """A family's chat format; ``Family(chat=...)``.

    ``efforts``: the words for ``--reasoning``, none where it has none; ``thinking_optional``: whether it can be told
    not to think; ``stops``: the control tokens that end the assistant's message.
    """

    @property
    def efforts(self) -> tuple[str, ...]: ...
    @property
    def thinking_optional(self) -> bool: ...
    @property
    def stops(self) -> tuple[str, ...]: ...

    def render(self, conversation: Conversation, settings: Settings) -> list[Piece]:
        """The prompt, up to where the assistant's next message begins. Each text is encoded by itself."""
        ...

    def settled(self, conversation: Conversation) -> Conversation:
        """What is carried on into the next turn: formats drop thinking that has led to an answer."""
        ...

    def reader(self, tokenizer: Tokenizer) -> Reader:
        """For what the model writes after a prompt of ``render``."""
        ...

    def sampling(self, settings: Settings) -> Mapping[str, float]:
        """What its makers advise, as arguments of ``blockzoo.generation.Sampler``."""
        ...


def check_settings(format: ChatFormat, family: str, settings: Settings) -> None:
    """Raise InputError for what this format can't be asked for."""
    if not settings.thinking and not format.thinking_optional:
        fix = f"; --reasoning {format.efforts[0]} keeps it short" if format.efforts else ""
        raise InputError(f"--no-thinking: models of family {family} can't be told not to think{fix}")
    if settings.reasoning is None or settings.reasoning in format.efforts:
        return
    if not format.efforts:
        fix = "; it has --thinking and --no-thinking" if format.thinking_optional else ""
        raise InputError(f"--reasoning {settings.reasoning}: the chat format of {family} has no such levels{fix}")
    raise InputError(f"--reasoning {settings.reasoning}{nearest(settings.reasoning, format.efforts)}")


def text_of(pieces: Sequence[Piece]) -> str:
    """A prompt as text, control tokens by their names: to look at, not to encode."""
    return "".join(piece.word if isinstance(piece, Control) else piece for piece in pieces)
