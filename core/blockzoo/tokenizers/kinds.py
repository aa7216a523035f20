"""What a tokenizer does, and the three that there are: text <-> token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from blockzoo.errors import InputError

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

STOP_WORDS = ("<|endoftext|>", "<|im_end|>", "<|return|>", "<|call|>")
"""Control tokens that end a text or a turn, in the vocabularies that have them."""


class Tokenizer(Protocol):
    """Text <-> ids. ``n_tokens``: ids are below it (a model's table may be longer). ``stop_tokens`` end a
    generation.
    """

    @property
    def n_tokens(self) -> int: ...

    @property
    def stop_tokens(self) -> tuple[int, ...]: ...

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """The ids of a text. Control tokens written in it are plain text unless ``control``."""
        ...

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text, none of them beside the merged ones: also what a vocabulary adds without calling it
        control (``<think>``) is plain text.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become replacement characters. Raises InputError for unknown ids."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; none for an id that the vocabulary leaves out."""
        ...


class ByteTokenizer:
    """One token a byte of UTF-8: 256 ids."""

    n_tokens = 256
    stop_tokens: tuple[int, ...] = ()

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return list(whole(text).encode())

    def encode_text(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return _text(self, tokens)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


class TiktokenTokenizer:
    """An encoding of tiktoken."""

    def __init__(self, encoding: tiktoken.Encoding, stop_tokens: tuple[int, ...] | None = None) -> None:
        self.encoding = encoding
        self.n_tokens = encoding.n_vocab
        known = encoding.special_tokens_set
        default = tuple(encoding.encode_single_token(word) for word in STOP_WORDS if word in known)
        self.stop_tokens = default if stop_tokens is None else stop_tokens

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return self.encoding.encode(text, allowed_special="all") if control else self.encoding.encode_ordinary(text)

    def encode_text(self, text: str) -> list[int]:
        return self.encoding.encode_ordinary(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return _text(self, tokens)

    def token_bytes(self, token: int) -> bytes:
        try:
            return self.encoding.decode_single_token_bytes(token)
        except KeyError:
            return b""


class BytePairTokenizer:
    """A byte-level tokenizer of the ``tokenizers`` library."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, stop_tokens: tuple[int, ...]) -> None:
        self.library = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._added = {token: added.content.encode() for token, added in tokenizer.get_added_tokens_decoder().items()}
        self._added_words = [word.decode() for word in self._added.values()]
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.n_tokens = 1 + max(vocabulary.values())
        self.stop_tokens = stop_tokens

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        self.library.encode_special_tokens = not control
        return _ids(self.library, text)

    def encode_text(self, text: str) -> list[int]:
        if any(word in text for word in self._added_words):
            return _ids(self._without_added, text)
        return self.encode(text)

    @cached_property
    def _without_added(self) -> tokenizers.Tokenizer:
        """The same without the tokens beside the merged ones; made when a text first needs it, as it costs a second."""
        import tokenizers

        described = json.loads(self.library.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps({**described, "added_tokens": [], "post_processor": None}))

    def decode(self, tokens: Sequence[int]) -> str:
        return _text(self, tokens)

    def token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token]
        word = self.library.id_to_token(token)
        if word is None:
            return b""
        known = all(character in BYTE_OF for character in word)
        return bytes(BYTE_OF[character] for character in word) if known else word.encode()


def whole(text: str) -> str:
    """What of a text is no Unicode, as bytes of an argument that are no UTF-8, becomes replacement characters."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode(whole(text), add_special_tokens=False).ids
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"the tokenizer can't encode this text ({error}); its tokenizer.json is not whole") from error


def _text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    unknown = next((token for token in tokens if not 0 <= token < tokenizer.n_tokens), None)
    if unknown is not None:
        raise InputError(f"token id {unknown} is outside the tokenizer's {tokenizer.n_tokens}")
    return b"".join(map(tokenizer.token_bytes, tokens)).decode("utf-8", errors="replace")


def _byte_characters() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes as: printable ones as themselves, the rest from 256
    on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}


BYTE_OF = _byte_characters()
