"""From a reference to a folder: a local one, or what is needed of a repository on the model hub.

Files lie in huggingface_hub's cache, or in a folder of the user's, and only what was verified gets there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blockzoo.checkpoints.hub.access import Access
from blockzoo.checkpoints.hub.gather import CONFIG, TOKENIZER, WEIGHTS, gathered, there
from blockzoo.checkpoints.hub.listing import commit_of, listing_of, remember_revision
from blockzoo.checkpoints.hub.reference import Reference, parse
from blockzoo.checkpoints.hub.stores import CacheStore, snapshot_folder
from blockzoo.checkpoints.hub.to_folder import download_to

__all__ = [
    "ALL",
    "CONFIG",
    "TOKENIZER",
    "WEIGHTS",
    "Access",
    "Reference",
    "download_to",
    "local_folder",
    "parse",
    "pinned",
]

ALL = (*CONFIG, *WEIGHTS, *TOKENIZER)


def local_folder(ref: str | Path | Reference, patterns: Sequence[str] = ALL, access: Access | None = None) -> Path:
    """The folder that a reference means; of a repository on the hub, with all that ``patterns`` ask for.

    Raises CheckpointError for a path that is no folder, and for what can't be had whole.
    """
    access = Access() if access is None else access
    place = pinned(ref, access)
    if isinstance(place, Path):
        return place
    files = listing_of(place, access)
    if files is None:
        return there(snapshot_folder(place), place, patterns)
    store = CacheStore(place, files, access)
    gathered(store, patterns)
    if set(WEIGHTS) <= set(patterns):  # a commit counts as the branch's when it is whole
        remember_revision(place)
    return store.folder


def pinned(ref: str | Path | Reference, access: Access | None = None) -> Path | Reference:
    """A local folder as it is; a hub's reference with the commit that its branch or tag is now at.

    What is asked of a pinned reference twice is the same twice, and without the hub where it is in the cache.
    """
    place = ref if isinstance(ref, Reference) else parse(ref)
    return place if isinstance(place, Path) else commit_of(place, Access() if access is None else access)
