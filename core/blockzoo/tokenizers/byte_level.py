"""A byte-level BPE of the ``tokenizers`` library from its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers


def byte_level(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    pattern: str | None,
    added: Iterable[tuple[int, str, bool]],
    *,
    nfc: bool = False,
) -> tokenizers.Tokenizer:
    """``pattern``: what cuts a text first; None: GPT-2's way. ``added``: tokens beside the merged ones, in the order of
    their ids, with the word and whether it is control. Raises ValueError where one would get another id, and what the
    library raises for parts that don't fit.
    """
    import tokenizers
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

    parts: Any = (dict(vocabulary), list(merges))
    tokenizer = tokenizers.Tokenizer(models.BPE(*parts))
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        cut = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    for token, word, special in added:
        known = tokenizer.token_to_id(word)
        tokenizer.add_tokens([AddedToken(word, special=special, normalized=False)])
        if tokenizer.token_to_id(word) != token:
            raise ValueError(
                f"added token {word!r} would get the id {tokenizer.token_to_id(word)}, not {token} (was {known})"
            )
    return tokenizer
