"""What a reference means: a local folder, or ``owner/name[/folder][@revision]`` on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from blockzoo.errors import CheckpointError

REFERENCE = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(?P<folder>/[\w./-]+)?(@(?P<revision>[\w./-]+))?")
COMMIT = re.compile("[0-9a-f]{40}")
DEFAULT_REVISION = "main"


@dataclass(frozen=True)
class Reference:
    """A folder of a repository. ``revision``: a branch, a tag or a commit; ``asked``: what a commit was found by."""

    repo: str
    folder: str = ""
    revision: str = DEFAULT_REVISION
    asked: str | None = None

    def at(self, commit: str) -> Reference:
        """The same, pinned."""
        return replace(self, revision=commit, asked=None if self.is_pinned else self.revision)

    @property
    def is_pinned(self) -> bool:
        return COMMIT.fullmatch(self.revision) is not None

    @property
    def commit(self) -> str:
        assert self.is_pinned, self
        return self.revision

    def inside(self, name: str) -> str:
        """A file's path in the repository."""
        return f"{self.folder}/{name}" if self.folder else name

    def __str__(self) -> str:
        return f"{self.repo}/{self.folder}@{self.revision}" if self.folder else f"{self.repo}@{self.revision}"


def parse(ref: str | Path) -> Path | Reference:
    """Raises CheckpointError for a path that is no folder."""
    path, text = Path(ref).expanduser(), str(ref)
    if text and path.is_dir():
        return path
    match = REFERENCE.fullmatch(text)
    if text and path.exists():
        raise CheckpointError(f"{ref}: is no folder; give the folder that holds the checkpoint")
    if isinstance(ref, Path) or match is None or text.startswith(("/", ".", "~")) or ".." in text.split("/"):
        raise CheckpointError(f"{text or repr(text)}: no such folder")
    return Reference(match["repo"], (match["folder"] or "").strip("/"), match["revision"] or DEFAULT_REVISION)
