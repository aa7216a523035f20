"""Tokenizers: text <-> token ids. All are byte-level, so every text can be encoded and every id stands for known bytes.

``load_tokenizer`` takes "bytes", the name of a tiktoken encoding, a folder (tokenizer.json, or vocab.json and
merges.txt, or a checkpoint that names its tokenizer), the name of a shipped model, or a hub reference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from blockzoo.checkpoints import hub
from blockzoo.checkpoints.family import Family, Splitting
from blockzoo.checkpoints.folder import open_file, path_in, read_json
from blockzoo.checkpoints.load import NATIVE_CONFIG, recognize
from blockzoo.config import load_config, shipped
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, InputError
from blockzoo.registry import Registry

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

FILE_BYTES = 64 * 2**20
BYTES = "bytes"
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
        return list(text.encode("utf-8", errors="replace"))

    def encode_text(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return _text(self, tokens)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


class TiktokenTokenizer:
    """An encoding of tiktoken."""

    def __init__(self, encoding: tiktoken.Encoding, stop_tokens: tuple[int, ...] | None = None) -> None:
        self._encoding = encoding
        self.n_tokens = encoding.n_vocab
        known = encoding.special_tokens_set
        default = tuple(encoding.encode_single_token(word) for word in STOP_WORDS if word in known)
        self.stop_tokens = default if stop_tokens is None else stop_tokens

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return self._encoding.encode(text, allowed_special="all") if control else self._encoding.encode_ordinary(text)

    def encode_text(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return _text(self, tokens)

    def token_bytes(self, token: int) -> bytes:
        try:
            return self._encoding.decode_single_token_bytes(token)
        except KeyError:
            return b""


class BytePairTokenizer:
    """A byte-level tokenizer of the ``tokenizers`` library."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, stop_tokens: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._added = {token: added.content.encode() for token, added in tokenizer.get_added_tokens_decoder().items()}
        self._added_words = [word.decode() for word in self._added.values()]
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.n_tokens = 1 + max(vocabulary.values())
        self.stop_tokens = stop_tokens

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        self._tokenizer.encode_special_tokens = not control
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_text(self, text: str) -> list[int]:
        if any(word in text for word in self._added_words):
            return self._without_added.encode(text, add_special_tokens=False).ids
        return self.encode(text)

    @cached_property
    def _without_added(self) -> tokenizers.Tokenizer:
        """The same without the tokens beside the merged ones; made when a text first needs it, as it costs a second."""
        import tokenizers

        described = json.loads(self._tokenizer.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps({**described, "added_tokens": [], "post_processor": None}))

    def decode(self, tokens: Sequence[int]) -> str:
        return _text(self, tokens)

    def token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token]
        word = self._tokenizer.id_to_token(token)
        return b"" if word is None else bytes(BYTE_OF[character] for character in word)


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

# --- finding one ------------------------------------------------------------------------------------------------------


def tokenizer_name(config: ModelConfig, *, registry: Registry) -> str:
    """What to call ``load_tokenizer`` with for a model: its own tokenizer, its family's, or bytes."""
    if config.tokenizer is not None:
        return config.tokenizer
    return BYTES if config.family is None else registry.get("family", config.family).tokenizer


def load_tokenizer(ref: str | Path, *, registry: Registry) -> Tokenizer:
    """The tokenizer that a reference means. Raises CheckpointError or InputError where it can't be had."""
    import tiktoken

    name = str(ref)
    if name == BYTES:
        return ByteTokenizer()
    if not Path(ref).is_dir():
        if name in tiktoken.list_encoding_names():
            return _from_tiktoken(name)
        if name in shipped(registry):
            return _of_model(load_config(name, registry=registry), registry)
    return _from_folder(hub.local_folder(ref, (*hub.TOKENIZER, *hub.CONFIG)), registry)


def _of_model(config: ModelConfig, registry: Registry) -> Tokenizer:
    tokenizer = load_tokenizer(tokenizer_name(config, registry=registry), registry=registry)
    if config.tokenizer is None and config.family is not None and isinstance(tokenizer, TiktokenTokenizer):
        tokenizer.stop_tokens = registry.get("family", config.family).stop_tokens
    return tokenizer


def _from_tiktoken(name: str) -> Tokenizer:
    import tiktoken

    try:
        return TiktokenTokenizer(tiktoken.get_encoding(name))
    except (OSError, ValueError) as error:
        folder = os.environ.get("TIKTOKEN_CACHE_DIR")
        raise InputError(
            f"tokenizer '{name}' is not in tiktoken's cache ({folder or 'TIKTOKEN_CACHE_DIR is not set'}) and could not"
            f" be downloaded ({type(error).__name__});"
            " point TIKTOKEN_CACHE_DIR at a folder that has it, or try with a network"
        ) from error


def _from_folder(folder: Path, registry: Registry) -> Tokenizer:
    """tokenizer.json, else vocab.json and merges.txt, else the tokenizer of the checkpoint's config."""
    there = {entry.name for entry in folder.iterdir()}
    settings = read_json(folder, "tokenizer_config.json") if "tokenizer_config.json" in there else {}
    if "tokenizer.json" in there:
        tokenizer = _parse(folder, "tokenizer.json")
    elif {"vocab.json", "merges.txt"} <= there:
        tokenizer = _from_merges(folder, settings, registry)
    elif there & {NATIVE_CONFIG, "config.json"}:
        return _of_model(recognize(folder, registry=registry).config, registry)
    else:
        raise CheckpointError(
            f"{folder}: holds no tokenizer.json, no vocab.json with merges.txt, and no config that names one"
        )
    if type(tokenizer.decoder).__name__ != "ByteLevel":
        raise CheckpointError(f"{folder}: its tokenizer is not byte-level; blockzoo reads byte-level ones only")
    ends = _end_of_generation(folder, there)
    words = [word for word in (settings.get("eos_token"), *STOP_WORDS) if isinstance(word, str)]
    stops = dict.fromkeys([*ends, *(tokenizer.token_to_id(word) for word in words)])
    return BytePairTokenizer(tokenizer, tuple(token for token in stops if token is not None))


def _end_of_generation(folder: Path, there: set[str]) -> list[int]:
    if "generation_config.json" not in there:
        return []
    ends = read_json(folder, "generation_config.json").get("eos_token_id")
    return [token for token in (ends if isinstance(ends, list) else [ends]) if type(token) is int]


def _read(folder: Path, name: str) -> bytes:
    with open_file(path_in(folder, name)) as file:
        data = file.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise CheckpointError(f"{folder / name}: is larger than {FILE_BYTES} bytes")
    return data


def _parse(folder: Path, name: str) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_buffer(_read(folder, name))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{folder / name}: is no tokenizer ({error})") from error


def _from_merges(folder: Path, settings: dict[str, Any], registry: Registry) -> tokenizers.Tokenizer:
    """A byte-level BPE, which cuts text as the family that knows the tokenizer's class says; GPT-2's way where none
    does.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocabulary = read_json(folder, "vocab.json", FILE_BYTES)
    lines = _read(folder, "merges.txt").decode("utf-8", errors="replace").split("\n")
    merges: Any = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    splitting = _splitting(settings.get("tokenizer_class"), registry.families().values())
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
        if splitting.pattern is None:
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            cut = pre_tokenizers.Split(tokenizers.Regex(splitting.pattern), "isolated")
            level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
        if splitting.nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.decoder = decoders.ByteLevel()
        _add(tokenizer, settings, splitting)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{folder}: vocab.json and merges.txt make no tokenizer ({error})") from error
    return tokenizer


def _add(tokenizer: tokenizers.Tokenizer, settings: dict[str, Any], splitting: Splitting) -> None:
    """Tokens beside the merged ones: those that tokenizer_config.json lists, else those that the class always has."""
    from tokenizers import AddedToken

    listed = settings.get("added_tokens_decoder")
    if isinstance(listed, dict):
        added = sorted((int(token), entry["content"], bool(entry.get("special"))) for token, entry in listed.items())
    else:
        added = list(splitting.added)
    for token, word, special in added:
        known = tokenizer.token_to_id(word)
        tokenizer.add_tokens([AddedToken(word, special=special, normalized=False)])
        if tokenizer.token_to_id(word) != token:
            raise ValueError(
                f"added token {word!r} would get the id {tokenizer.token_to_id(word)}, not {token} (was {known})"
            )


def _splitting(tokenizer_class: object, families: Any) -> Splitting:
    """The fast and the slow class of a tokenizer differ by a suffix."""
    name = str(tokenizer_class).removesuffix("Fast")
    found: list[Family] = [family for family in families if name in family.splittings]
    return found[0].splittings[name] if found else Splitting()
