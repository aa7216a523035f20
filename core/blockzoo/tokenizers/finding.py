"""Finding the tokenizer that a reference means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockzoo.checkpoints import hub
from blockzoo.checkpoints.beside import TOKENIZER_BYTES
from blockzoo.checkpoints.end_tokens import end_tokens
from blockzoo.checkpoints.family import Family, Splitting
from blockzoo.checkpoints.folder import read_bytes, read_json
from blockzoo.checkpoints.load import NATIVE_CONFIG, meant, recognize
from blockzoo.config import load_config, shipped
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, InputError
from blockzoo.registry import Registry
from blockzoo.tokenizers.byte_level import byte_level
from blockzoo.tokenizers.kinds import STOP_WORDS, BytePairTokenizer, ByteTokenizer, TiktokenTokenizer

if TYPE_CHECKING:
    import tokenizers

BYTES = "bytes"
Known = ByteTokenizer | TiktokenTokenizer | BytePairTokenizer


def tokenizer_name(config: ModelConfig, *, registry: Registry) -> str:
    """What to call ``load_tokenizer`` with for a model: its own tokenizer, its family's, or bytes."""
    if config.tokenizer is not None:
        return config.tokenizer
    return BYTES if config.family is None else registry.get("family", config.family).tokenizer


def load_tokenizer(ref: str | Path, *, registry: Registry) -> Known:
    """The tokenizer that a reference means. Raises CheckpointError or InputError where it can't be had."""
    return _load(ref, registry, ())


def _load(ref: str | Path, registry: Registry, named_by: tuple[str, ...]) -> Known:
    """``named_by``: the references that led here, each of which names the next one's tokenizer as its own."""
    import tiktoken

    name = str(ref)
    if name in named_by:
        circle = " -> ".join((*named_by, name))
        raise CheckpointError(f"{circle}: each names the next one's tokenizer, and none has one: copy it in")
    if name == BYTES:
        return ByteTokenizer()
    if not Path(ref).is_dir():
        if name in tiktoken.list_encoding_names():
            return _from_tiktoken(name)
        if name in shipped(registry):
            return _of_model(load_config(name, registry=registry), registry, (*named_by, name))
    return _from_folder(hub.local_folder(ref, (*hub.TOKENIZER, *hub.CONFIG)), registry, (*named_by, name))


def _of_model(config: ModelConfig, registry: Registry, named_by: tuple[str, ...]) -> Known:
    tokenizer = _load(tokenizer_name(config, registry=registry), registry, named_by)
    if config.tokenizer is None and config.family is not None and isinstance(tokenizer, TiktokenTokenizer):
        tokenizer.stop_tokens = registry.get("family", config.family).stop_tokens
    return tokenizer


def _from_tiktoken(name: str) -> TiktokenTokenizer:
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


def _from_folder(folder: Path, registry: Registry, named_by: tuple[str, ...]) -> Known:
    """tokenizer.json, else vocab.json and merges.txt, else the tokenizer of the checkpoint's config; and what the
    folder says ends a text.
    """
    there = {entry.name for entry in folder.iterdir()}
    settings = read_json(folder, "tokenizer_config.json") if "tokenizer_config.json" in there else {}
    tokenizer: Known
    if "tokenizer.json" in there:
        tokenizer = _byte_pairs(folder / "tokenizer.json", _parse(folder, "tokenizer.json"), settings)
    elif {"vocab.json", "merges.txt"} <= there:
        tokenizer = _byte_pairs(folder / "vocab.json", _from_merges(folder, settings, registry), settings)
    elif there & {NATIVE_CONFIG, "config.json"}:
        tokenizer = _of_model(recognize(folder, registry=registry).config, registry, named_by)
    else:
        said = "holds no tokenizer.json, no vocab.json with merges.txt, and no config that names one"
        raise CheckpointError(f"{folder}: {said}{meant(folder)}")
    ends = end_tokens(folder, tokenizer.n_tokens)
    tokenizer.stop_tokens = tuple(dict.fromkeys([*ends, *tokenizer.stop_tokens]))
    return tokenizer


def _byte_pairs(file: Path, tokenizer: tokenizers.Tokenizer, settings: dict[str, Any]) -> BytePairTokenizer:
    """Stops at the words that end a text: the one that tokenizer_config.json names, and the usual ones."""
    if type(tokenizer.decoder).__name__ != "ByteLevel":
        raise CheckpointError(f"{file.parent}: its tokenizer is not byte-level; blockzoo reads byte-level ones only")
    if not tokenizer.get_vocab_size(with_added_tokens=True):
        raise CheckpointError(f"{file}: its vocabulary is empty; copy the tokenizer of the model's makers here")
    words = [word for word in (settings.get("eos_token"), *STOP_WORDS) if isinstance(word, str)]
    stops = [tokenizer.token_to_id(word) for word in words]
    return BytePairTokenizer(tokenizer, tuple(token for token in stops if token is not None))


def _parse(folder: Path, name: str) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_buffer(read_bytes(folder, name, TOKENIZER_BYTES))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{folder / name}: is no tokenizer ({error})") from error


def _from_merges(folder: Path, settings: dict[str, Any], registry: Registry) -> tokenizers.Tokenizer:
    """A byte-level BPE, which cuts text as the family that knows the tokenizer's class says; GPT-2's way where none
    does.
    """
    vocabulary = read_json(folder, "vocab.json", TOKENIZER_BYTES)
    lines = read_bytes(folder, "merges.txt", TOKENIZER_BYTES).decode("utf-8", errors="replace").split("\n")
    merges: Any = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    splitting = _splitting(settings.get("tokenizer_class"), registry.families().values())
    try:
        return byte_level(vocabulary, merges, splitting.pattern, _added(settings, splitting), nfc=splitting.nfc)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{folder}: vocab.json and merges.txt make no tokenizer ({error})") from error


def _added(settings: dict[str, Any], splitting: Splitting) -> Iterator[tuple[int, str, bool]]:
    """Tokens beside the merged ones: those that tokenizer_config.json lists, else those that the class always has."""
    listed = settings.get("added_tokens_decoder")
    if isinstance(listed, dict):
        yield from sorted((int(token), entry["content"], bool(entry.get("special"))) for token, entry in listed.items())
    else:
        yield from splitting.added


def _splitting(tokenizer_class: object, families: Any) -> Splitting:
    """The fast and the slow class of a tokenizer differ by a suffix."""
    name = str(tokenizer_class).removesuffix("Fast")
    found: list[Family] = [family for family in families if name in family.splittings]
    return found[0].splittings[name] if found else Splitting()
