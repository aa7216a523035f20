"""What a checkpoint has beside its weights and another one takes over as it is: the tokenizer, and how to generate.

Its files are read whole before anything is written, as they may be no files, lead out of the folder, or have no end.
"""

from __future__ import annotations

from pathlib import Path

from blockzoo.checkpoints.folder import CONFIG_BYTES, holds, read_bytes
from blockzoo.checkpoints.hub import TOKENIZER
from blockzoo.checkpoints.load import GENERATION

TOKENIZER_BYTES = 64 * 2**20
"""Of a vocabulary's file; the largest published ones take 35 million."""
LIMITS = {**dict.fromkeys(TOKENIZER, TOKENIZER_BYTES), "tokenizer_config.json": CONFIG_BYTES, GENERATION: CONFIG_BYTES}


def names_beside(folder: Path) -> list[str]:
    """Which of these files a folder has."""
    return [name for name in LIMITS if holds(folder, name)]


def files_beside(folder: Path) -> dict[str, bytes]:
    """These files' contents by name. Raises CheckpointError for what is no file of the folder, or too large for one
    that ``load_tokenizer`` reads.
    """
    return {name: read_bytes(folder, name, LIMITS[name]) for name in names_beside(folder)}
