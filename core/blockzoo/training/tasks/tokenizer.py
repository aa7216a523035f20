"""A task's tokens as words with blanks between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockzoo.errors import InputError, nearest


@dataclass(frozen=True)
class TaskTokenizer:
    """A ``Tokenizer`` whose texts are the names of tokens."""

    names: tuple[str, ...]
    stop_tokens: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.names)

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Raises InputError for a word that names no token."""
        ids = {name: token for token, name in enumerate(self.names)}
        unknown = next((word for word in text.split() if word not in ids), None)
        if unknown is not None:
            raise InputError(f"{unknown!r} names no token of this task{nearest(unknown, ids)}")
        return [ids[word] for word in text.split()]

    def encode_text(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(self.names[token] if token < len(self.names) else f"<{token}?>" for token in tokens)

    def token_bytes(self, token: int) -> bytes:
        return f"{self.names[token]} ".encode()
