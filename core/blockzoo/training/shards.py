"""Tokens on disk: a folder of shards of one size with their hashes, memory-mapped.

``data.json`` says what they are; ``train-00000.bin``, ``held_out-00000.bin`` and so on hold nothing but token ids. The
folder appears whole or not at all, and is never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from blockzoo.errors import CheckpointError

SHARD = 1 << 26
"""Bytes of a shard, the last of its part apart."""
HASHED = 1 << 28
"""Bytes of tokens that are hashed each time they are opened: a quarter of a second; more would be long."""
PARTS = ("train", "held_out")


class Tokens:
    """Shards one after another, as if they were one array: ``len`` and slices of it."""

    def __init__(self, shards: Sequence[np.ndarray], dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self._shards = shards
        self._ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._shards else 0

    def __getitem__(self, window: slice) -> np.ndarray:
        """A copy, but where it lies within one shard. Steps are not served."""
        start, stop, step = window.indices(len(self))
        assert step == 1
        first = int(np.searchsorted(self._ends, start, side="right"))
        found = []
        while start < stop:
            begin = int(self._ends[first]) - len(self._shards[first])
            part = self._shards[first][start - begin : stop - begin]
            found.append(part)
            start += len(part)
            first += 1
        return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, self.dtype), *found])


@dataclass
class ShardWriter:
    """Writes one part of a new folder, as a context; a shard is closed when it is full.

    ``shards``: those that are closed, each with its file, bytes and sha256.
    """

    folder: Path
    part: str
    dtype: np.dtype[Any]
    size: int = SHARD

    def __post_init__(self) -> None:
        self.shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._written = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, tokens: Iterable[int]) -> None:
        data = memoryview(np.asarray(tokens, dtype=self.dtype).tobytes())
        while len(data):
            if self._file is None:
                self._file = (self.folder / f"{self.part}-{len(self.shards):05d}.bin").open("wb")
            some = data[: self.size - self._written]
            self._file.write(some)
            self._digest.update(some)
            self._written += len(some)
            data = data[len(some) :]
            if self._written == self.size:
                self.close()

    def close(self) -> None:
        """End the shard that is being written."""
        if self._file is not None:
            name = Path(self._file.name).name
            self._file.close()
            self.shards.append({"file": name, "bytes": self._written, "sha256": self._digest.hexdigest()})
            self._file, self._written, self._digest = None, 0, hashlib.sha256()


def read_about(folder: Path) -> dict[str, Any]:
    """``data.json`` of a folder. Raises CheckpointError where it is damaged."""
    try:
        about: dict[str, Any] = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        for part in PARTS:
            [(shard["file"], shard["bytes"], shard["sha256"]) for shard in about["shards"][part]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / "data.json", f"can't be read ({error})") from error
    return about


def open_tokens(folder: Path, about: dict[str, Any], *, verify: bool = False) -> dict[str, Tokens]:
    """Part -> its tokens. Sizes are always checked; hashes where there are at most HASHED bytes, or on request.

    Raises CheckpointError for a shard that is not what was written.
    """
    total = sum(shard["bytes"] for part in PARTS for shard in about["shards"][part])
    found = {}
    for part in PARTS:
        maps = []
        for shard in about["shards"][part]:
            file = folder / shard["file"]
            try:
                size = file.stat().st_size
                if size != shard["bytes"]:
                    raise _damaged(file, f"has {size} bytes, {shard['bytes']} were written")
                mapped = np.memmap(file, dtype=about["dtype"], mode="r")
            except OSError as error:
                raise _damaged(file, f"can't be read ({error.strerror})") from error
            if (verify or total <= HASHED) and file_hash(file) != shard["sha256"]:
                raise _damaged(file, "its hash is another than when it was written")
            maps.append(mapped)
        found[part] = Tokens(maps, about["dtype"])
    return found


def file_hash(file: Path) -> str:
    """sha256 of a file, read in small parts."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: {why}: the cached tokens are damaged or were changed; delete the folder {file.parent} and the same"
        " command makes it again"
    )
