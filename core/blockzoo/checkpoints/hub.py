"""From a reference to a folder: a local one, or a snapshot of a repository on the model hub.

A hub reference is ``owner/name``, ``owner/name@revision`` or ``owner/name/subfolder``
(``openai/gpt-oss-20b/original``); only files that are read are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from blockzoo.errors import CheckpointError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
CONFIG = ("config.json", "generation_config.json", "blockzoo.yaml")
REFERENCE = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(?P<folder>/[\w./-]+)?(@(?P<revision>[\w./-]+))?")


def local_folder(ref: str | Path, patterns: Sequence[str] = (*CONFIG, *WEIGHTS, *TOKENIZER)) -> Path:
    """The folder that a reference means; downloads what matches ``patterns`` if it is a hub's.

    Raises CheckpointError for a path that is no folder, and for a repository that can't be had.
    """
    path, text = Path(ref).expanduser(), str(ref)
    if text and path.is_dir():
        return path
    match = REFERENCE.fullmatch(text)
    if text and path.exists():
        raise CheckpointError(f"{ref}: is no folder; give the folder that holds the checkpoint")
    if isinstance(ref, Path) or match is None or text.startswith(("/", ".", "~")) or ".." in text.split("/"):
        raise CheckpointError(f"{text or repr(text)}: no such folder")
    return _download(match["repo"], (match["folder"] or "").strip("/"), match["revision"], patterns)


def _download(repo: str, folder: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    inside = f"{folder}/" if folder else ""
    try:
        snapshot = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[inside + pattern for pattern in patterns],
            ignore_patterns=[inside + "*/*"],  # a pattern's star also matches slashes
        )
    except (OSError, HFValidationError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{repo}: is no folder here, and could not be had from the model hub ({type(error).__name__}: {reason});"
            " give a local folder, or try again with a network"
        ) from error
    found = Path(snapshot) / folder
    if not found.is_dir():
        raise CheckpointError(f"{repo}: has no folder '{folder}' with such files")
    return found
