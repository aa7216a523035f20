"""Which commit a revision is, and which files it has: asked of the hub once, then remembered in the cache.

The list is kept beside huggingface_hub's own files, as ``<repository>/blockzoo/<commit>.json``: by it a half
downloaded snapshot is known as such without a network.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blockzoo.checkpoints.atomic import write_file
from blockzoo.checkpoints.hub.access import Access, explained, is_final, status_of
from blockzoo.checkpoints.hub.reference import COMMIT, Reference
from blockzoo.errors import CheckpointError

TRIES = 3
SECONDS = 30.0
"""How long the hub may take for a list."""


@dataclass(frozen=True)
class HubFile:
    """What the hub says of a file. ``sha256`` is given for large files, ``blob`` (git's SHA-1) for the others."""

    size: int | None
    sha256: str | None
    blob: str | None


def repository_folder(repo: str) -> Path:
    """Where huggingface_hub's cache keeps a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def commit_of(place: Reference, access: Access) -> Reference:
    """The reference at the commit that its branch or tag is at; where the hub is silent, at the one last seen."""
    if place.is_pinned:
        return place
    if access.is_offline:
        return _remembered(place, CheckpointError(f"{_not_cached(place)}, and offline"))
    try:
        commit, files = _ask(place, access)
    except Exception as error:  # of the HTTP client's, which differs by huggingface_hub's version
        found = explained(error, place, access)
        if status_of(error) not in (None, 408, 429, 500, 502, 503, 504) or isinstance(error, CheckpointError):
            raise found from error
        known = _remembered(place, found)
        access.say(f"{place.repo}: the hub can't be reached ({type(error).__name__}); taking {known.commit}, which")
        access.say(f"  '{place.revision}' was when it was last downloaded")
        return known
    known = place.at(commit)
    _remember(known, files)
    return known


def listing_of(place: Reference, access: Access) -> Mapping[str, HubFile] | None:
    """The files in the folder of a pinned reference, by name. None: unknown, and offline."""
    files = _recall(place)
    if files is None and not access.is_offline:
        try:
            _, files = _ask(place, access)
        except Exception as error:  # as above
            raise explained(error, place, access) from error
        _remember(place, files)
    if files is None:
        return None
    prefix = place.inside("")
    inside = {path.removeprefix(prefix): file for path, file in files.items() if path.startswith(prefix)}
    direct = {name: file for name, file in inside.items() if re.fullmatch(r"[\w.-]+", name)}
    if not direct:
        folders = sorted({path.rpartition("/")[0] for path in files if path.endswith(".safetensors")} - {""})
        hint = f"; with weights: {', '.join(folders)}" if folders else ""
        what = f"has no folder '{place.folder}'{hint}" if place.folder else "is empty"
        raise CheckpointError(f"{place.repo}: {what}")
    return direct


def remember_revision(place: Reference) -> None:
    """Note which commit a branch is at, where huggingface_hub does, for going on without a network."""
    if place.asked is not None:
        _write_if_possible(repository_folder(place.repo) / "refs" / place.asked, place.commit)


def _ask(place: Reference, access: Access) -> tuple[str, dict[str, HubFile]]:
    from huggingface_hub import HfApi

    for attempt in range(TRIES):
        try:
            info = HfApi(token=access.token).model_info(
                place.repo, revision=place.revision, files_metadata=True, timeout=SECONDS
            )
            break
        except Exception as error:  # as above
            if is_final(error) or attempt == TRIES - 1 or status_of(error) is None:
                raise
            time.sleep(2**attempt)
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise CheckpointError(f"{place.repo}: the hub names no commit for '{place.revision}'")
    return info.sha, {
        file.rfilename: HubFile(file.size, None, file.blob_id)
        if file.lfs is None
        else HubFile(file.lfs.size, file.lfs.sha256, None)  # git's name is that of a pointer to it
        for file in info.siblings or []
    }


def _remembered(place: Reference, otherwise: CheckpointError) -> Reference:
    path = repository_folder(place.repo) / "refs" / place.revision
    commit = path.read_text().strip() if path.is_file() else ""
    known = place.at(commit)
    if not known.is_pinned:
        raise otherwise
    return known


def _not_cached(place: Reference) -> str:
    return f"{place}: is no folder here and not in the cache ({repository_folder(place.repo).parent})"


def _record(place: Reference) -> Path:
    return repository_folder(place.repo) / "blockzoo" / f"{place.commit}.json"


def _remember(place: Reference, files: Mapping[str, HubFile]) -> None:
    _write_if_possible(_record(place), json.dumps({path: asdict(file) for path, file in files.items()}))


def _write_if_possible(path: Path, text: str) -> None:
    if path.is_file() and path.read_text() == text:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text)
    except (OSError, CheckpointError):  # a cache that can only be read: the hub is asked again
        return


def _recall(place: Reference) -> dict[str, HubFile] | None:
    try:
        values: dict[str, Any] = json.loads(_record(place).read_bytes())
        return {path: HubFile(**file) for path, file in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none, or none of ours: as if there were none
        return None
