"""Downloading to a folder of the user's, which appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from blockzoo.checkpoints.atomic import write_file
from blockzoo.checkpoints.hub.access import Access
from blockzoo.checkpoints.hub.gather import gathered
from blockzoo.checkpoints.hub.listing import HubFile, listing_of
from blockzoo.checkpoints.hub.reference import Reference
from blockzoo.checkpoints.hub.stores import RECORD, FolderStore, recorded
from blockzoo.checkpoints.hub.transfer import wrong
from blockzoo.errors import CheckpointError


def download_to(folder: Path, place: Reference, patterns: Sequence[str], access: Access) -> Path:
    """Download a pinned reference; ``.<name>.downloading`` beside the folder is what goes on after an interrupt.

    A folder that was downloaded from there before is left as it is. Raises CheckpointError for one that holds anything
    else.
    """
    folder = folder.absolute()
    files = listing_of(place, access)
    if files is None:
        raise CheckpointError(f"{place}: the cache does not tell which files it has, and offline")
    if folder.exists() or folder.is_symlink():
        if recorded(folder) == str(place):
            _check_kept(folder, access)
            return folder
        if not folder.is_dir() or any(folder.iterdir()):
            raise CheckpointError(f"{folder}: is there already, and not from {place}; choose another place")
    store = FolderStore(place, files, access, folder.with_name(f".{folder.name}.downloading"))
    names = gathered(store, patterns)
    for entry in store.folder.iterdir():
        if entry.name not in names:
            entry.unlink()
    record = {"reference": str(place), "revision": place.asked, "files": {name: asdict(files[name]) for name in names}}
    write_file(store.folder / RECORD, json.dumps(record, indent=2) + "\n")
    if folder.exists():
        folder.rmdir()
    store.folder.rename(folder)
    return folder


def _check_kept(folder: Path, access: Access) -> None:
    """What was whole when it came may have been damaged since."""
    files = json.loads((folder / RECORD).read_bytes()).get("files", {})
    for name, values in files.items():
        path, file = folder / name, HubFile(**values)
        whole = path.is_file() and file.size in (None, path.stat().st_size)
        if not whole or (access.again and wrong(path, file)):
            raise CheckpointError(f"{path}: is not as it was downloaded; remove {folder} and download it again")
