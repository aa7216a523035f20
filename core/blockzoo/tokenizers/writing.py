"""A tokenizer as files that transformers and blockzoo read: for checkpoints whose layout has no word for its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from blockzoo.checkpoints import hub
from blockzoo.checkpoints.beside import files_beside
from blockzoo.config.schema import ModelConfig
from blockzoo.registry import Registry
from blockzoo.tokenizers.byte_level import byte_level
from blockzoo.tokenizers.finding import load_tokenizer, tokenizer_name
from blockzoo.tokenizers.kinds import BYTE_OF, ByteTokenizer, TiktokenTokenizer

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


def tokenizer_files(config: ModelConfig, *, registry: Registry) -> dict[str, bytes]:
    """The files of a model's tokenizer, by name. Raises what ``load_tokenizer`` raises where it can't be had."""
    name = tokenizer_name(config, registry=registry)
    tokenizer = load_tokenizer(name, registry=registry)
    if isinstance(tokenizer, ByteTokenizer):
        return _files(byte_level({CHARACTER_OF[byte]: byte for byte in range(256)}, [], None, []), None)
    beside = files_beside(Path(name)) if Path(name).is_dir() else {}
    if copied := {file: content for file, content in beside.items() if file in hub.TOKENIZER}:
        return copied
    end = next((word for token in tokenizer.stop_tokens if (word := tokenizer.token_bytes(token).decode())), None)
    if isinstance(tokenizer, TiktokenTokenizer):
        return _files(_of_tiktoken(tokenizer.encoding), end)
    return _files(tokenizer.library, end)


def _of_tiktoken(encoding: tiktoken.Encoding) -> tokenizers.Tokenizer:
    """tiktoken ranks tokens in the order they were merged in: a token's halves are what ranks before it make of it."""
    ranks = encoding._mergeable_ranks
    words = {token: "".join(map(CHARACTER_OF.__getitem__, token)) for token in ranks}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda pair: pair[1]):
        if len(token) > 1:
            first, second = _halves(token, ranks, rank)
            merges.append((words[first], words[second]))
    special = {token: word for word, token in reversed(encoding._special_tokens.items())}  # one may have two words
    added = [(token, word, True) for token, word in sorted(special.items())]
    # a word of the vocabulary keeps its id: those of added tokens may leave some out
    vocabulary = {words[token]: rank for token, rank in ranks.items()} | {word: token for token, word, _ in added}
    return byte_level(vocabulary, merges, _for_oniguruma(encoding._pat_str), added)


def _for_oniguruma(pattern: str) -> str:
    """``x{1,3}+`` gives nothing back in tiktoken's engine; in that of tokenizers it is ``x{1,3}`` again and again."""
    return re.sub(r"(\\[pP]\{\^?\w+\}|\[[^\]]*\]|\\?.)(\{\d+,\d*\})\+", r"(?>\1\2)", pattern)


def _halves(token: bytes, ranks: Mapping[bytes, int], rank: int) -> tuple[bytes, bytes]:
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _files(tokenizer: tokenizers.Tokenizer, end: str | None) -> dict[str, bytes]:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end is not None:
        settings["eos_token"] = end
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings, indent=1).encode(),
    }
