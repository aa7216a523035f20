"""Which tokens end a text, as a checkpoint's own files say: ``eos_token_id``.

As in transformers, ``generation_config.json`` decides where it is there, config.json where it isn't. transformers
writes the one from the other's defaults, marked ``_from_model_config``: such ids are those of the published model and
may lie past a smaller vocabulary (GPT-2's 50256), or be -1 for none: they never come. What somebody wrote must be
usable.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockzoo.checkpoints.folder import holds, read_json
from blockzoo.checkpoints.load import GENERATION
from blockzoo.errors import CheckpointError

CONFIG = "config.json"
KEY = "eos_token_id"
DERIVED = "_from_model_config"


def end_tokens(folder: Path, n_tokens: int) -> list[int]:
    """The ids that end a text, all below ``n_tokens``. Raises CheckpointError for values that are no ids."""
    name = next((name for name in (GENERATION, CONFIG) if holds(folder, name)), None)
    if name is None:
        return []
    said = read_json(folder, name)
    value = said.get(KEY)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    defaults = name == CONFIG or said.get(DERIVED) is True
    if not all(type(one) is int and (0 <= one < n_tokens or defaults) for one in ids):
        text = repr(value)
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise CheckpointError(
            f"{folder / name}: '{KEY}' is {shown}; it must be the id of a token, from 0 to {n_tokens - 1}, a list of"
            " such, or null"
        )
    return [one for one in ids if 0 <= one < n_tokens]


def how_to_generate(kept: Mapping[str, Mapping[str, Any]], *, config_has_ids: bool) -> Mapping[str, Any] | None:
    """What generation_config.json says of a model that was loaded, or None for no such file.

    ``kept``: by file, what is kept beside the model. Where the layout's config has no place for the ids that end a
    text (``config_has_ids``), they go there, marked as transformers would.
    """
    ends = kept.get(CONFIG, {}).get(KEY)
    if GENERATION in kept or config_has_ids or ends is None:
        return kept.get(GENERATION)
    return {DERIVED: True, KEY: ends}
