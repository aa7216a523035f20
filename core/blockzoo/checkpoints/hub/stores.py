"""Where downloaded files go: huggingface_hub's cache, or a folder of the user's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Protocol

from blockzoo.checkpoints.atomic import write_file
from blockzoo.checkpoints.hub.access import Access
from blockzoo.checkpoints.hub.listing import HubFile, repository_folder
from blockzoo.checkpoints.hub.reference import Reference
from blockzoo.checkpoints.hub.transfer import transfer, wrong
from blockzoo.errors import CheckpointError

RECORD = "blockzoo-download.json"
"""In a folder that was downloaded to: from where, and what each file must be."""


class Store(Protocol):
    """``place`` is pinned; ``files``: those of its folder; ``folder``: where they lie under the same names."""

    @property
    def place(self) -> Reference: ...
    @property
    def files(self) -> Mapping[str, HubFile]: ...
    @property
    def access(self) -> Access: ...
    @property
    def folder(self) -> Path: ...

    def needs_hub(self, name: str) -> bool:
        """Whether a file that isn't there can only come from the hub."""

    def obtain(self, name: str, stop: Event) -> None:
        """Get one file that isn't there."""

    def discard(self, name: str) -> None:
        """Remove one that is damaged."""


def snapshot_folder(place: Reference) -> Path:
    return repository_folder(place.repo) / "snapshots" / place.commit / place.folder


class CacheStore:
    """huggingface_hub's cache. Its library makes the links; the content is in place, and verified, before it does."""

    def __init__(self, place: Reference, files: Mapping[str, HubFile], access: Access) -> None:
        self.place, self.files, self.access = place, files, access
        self.folder = snapshot_folder(place)

    def needs_hub(self, name: str) -> bool:
        return True

    def obtain(self, name: str, stop: Event) -> None:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.utils import WeakFileLock

        place, access, repository = self.place, self.access, repository_folder(self.place.repo)
        path = place.inside(name)
        url = hf_hub_url(place.repo, path, revision=place.commit)
        said = get_hf_file_metadata(url, token=access.token)
        if said.etag is None or "/" in said.etag or said.etag.startswith("."):
            raise CheckpointError(f"{place.repo}: the hub gives no proper ETag for {path}; is HF_ENDPOINT a model hub?")
        file = agreed(self.files[name], said.size, place, path)
        blob = repository / "blobs" / said.etag
        lock = Path(constants.HF_HUB_CACHE) / ".locks" / repository.name / f"{said.etag}.lock"
        for parent in (blob.parent, lock.parent):
            parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.exists() and wrong(blob, file) is not None:
                blob.unlink()
            if not blob.exists():
                transfer(url, blob, file, headers=access.headers(), shown=path, stop=stop)
        hf_hub_download(place.repo, path, revision=place.commit, token=access.token)

    def discard(self, name: str) -> None:
        path = self.folder / name
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)


class FolderStore:
    """A folder that is filled beside its place, so that a second try goes on where the first ended."""

    def __init__(self, place: Reference, files: Mapping[str, HubFile], access: Access, folder: Path) -> None:
        self.place, self.files, self.access, self.folder = place, files, access, folder
        if folder.exists() and recorded(folder) != str(place):
            shutil.rmtree(folder)  # of another commit
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / RECORD, json.dumps({"reference": str(place)}))

    def needs_hub(self, name: str) -> bool:
        return not (snapshot_folder(self.place) / name).is_file()

    def obtain(self, name: str, stop: Event) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        place, path = self.place, self.place.inside(name)
        if not self.needs_hub(name):
            part = self.folder / f"{name}.incomplete"
            shutil.copyfile(snapshot_folder(place) / name, part)
            if wrong(part, self.files[name]) is None:
                part.rename(self.folder / name)
                return
            part.unlink()
        if self.access.is_offline:
            raise CheckpointError(f"{snapshot_folder(place) / name}: is damaged; download it again with a network")
        url = hf_hub_url(place.repo, path, revision=place.commit)
        said = get_hf_file_metadata(url, token=self.access.token)
        file = agreed(self.files[name], said.size, place, path)
        transfer(url, self.folder / name, file, headers=self.access.headers(), shown=path, stop=stop)

    def discard(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


def recorded(folder: Path) -> str | None:
    """The pinned reference that a folder was downloaded from, or None."""
    try:
        return str(json.loads((folder / RECORD).read_bytes())["reference"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def agreed(file: HubFile, size: int | None, place: Reference, path: str) -> HubFile:
    """What the list of files and the file's own headers say of it. Raises CheckpointError where they differ."""
    if None not in (file.size, size) and file.size != size:
        raise CheckpointError(f"{place.repo}: the hub gives two sizes for {path}: {file.size} and {size} bytes")
    return file if file.size is not None else HubFile(size, file.sha256, file.blob)
