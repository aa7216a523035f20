"""From tokens to text as they come."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Protocol


class TokenBytes(Protocol):
    """What of a tokenizer a stream of text needs."""

    def token_bytes(self, token: int) -> bytes: ...


@dataclass
class TextStream:
    """Tokens in, text out: a character whose UTF-8 bytes are not all there yet is held back."""

    tokenizer: TokenBytes
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"), init=False, repr=False
    )

    def push(self, token: int) -> str:
        """The text that this token completes."""
        return self._decoder.decode(self.tokenizer.token_bytes(token))

    def close(self) -> str:
        """What was held back: a replacement character for a character that never became whole."""
        return self._decoder.decode(b"", final=True)
