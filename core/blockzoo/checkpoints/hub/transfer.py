"""One file from the hub: resumed where it broke off, tried again, and in its place only when it is verified."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import BinaryIO

from blockzoo.checkpoints.hub.access import is_final, status_of
from blockzoo.checkpoints.hub.listing import HubFile

TRIES = 4
"""How often in a row a file may fail without a byte more."""
FIRST_WAIT = 1.0
"""Seconds before the second try; twice as many before each further one."""
READ_AT_ONCE = 2**20


class StoppedError(Exception):
    """Another file's failure, or the user, ended the download."""


def wrong(path: Path, file: HubFile) -> str | None:
    """Why a file is not what the hub said, or None. Reads all of it."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size} bytes, not the {file.size} that the hub gives"
    if file.sha256 is not None:
        digest, said = hashlib.sha256(), file.sha256
    elif file.blob is not None:  # as git names its content
        digest, said = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), file.blob
    else:
        return None
    with open(path, "rb") as opened:
        while data := opened.read(READ_AT_ONCE):
            digest.update(data)
    return None if digest.hexdigest() == said else f"is damaged: its {digest.name} is not the one that the hub gives"


def transfer(
    url: str, destination: Path, file: HubFile, *, headers: Mapping[str, str], shown: str, stop: Event
) -> None:
    """Download to ``destination``. What arrived of it stays beside, as ``*.incomplete``, if it can't be finished.

    Raises OSError for content that is not what the hub said, or what huggingface_hub raises.
    """
    part = destination.with_name(destination.name + ".incomplete")
    failures, reached = 0, _size(part)
    while True:
        try:
            _receive(url, part, file, headers, shown, stop)
            if reason := wrong(part, file):
                part.unlink()
                raise OSError(f"{shown} {reason}")
            os.replace(part, destination)
            return
        except StoppedError:
            raise
        except Exception as error:  # of the HTTP client's, which differs by huggingface_hub's version
            if status_of(error) == 416:  # what we have is no beginning of what the hub has
                part.unlink(missing_ok=True)
            failures = 0 if _size(part) > reached else failures + 1
            reached = max(reached, _size(part))
            if is_final(error) or failures == TRIES:
                raise
            if stop.wait(FIRST_WAIT * 2**failures / 2 if failures else 0):
                raise StoppedError from error


def _receive(url: str, part: Path, file: HubFile, headers: Mapping[str, str], shown: str, stop: Event) -> None:
    from huggingface_hub.file_download import http_get

    if file.size is not None and _size(part) > file.size:
        part.unlink()
    with open(part, "ab") as opened:
        http_get(
            url,
            _Guarded(opened, shown, file.size, stop),  # type: ignore[arg-type]  # the four methods are all it uses
            resume_size=opened.tell(),
            headers=dict(headers),
            expected_size=file.size,
            displayed_filename=shown,
        )


class _Guarded:
    """A file that takes no more bytes than announced, and none after ``stop``."""

    def __init__(self, file: BinaryIO, shown: str, limit: int | None, stop: Event) -> None:
        self._file, self._shown, self._limit, self._stop = file, shown, limit, stop
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise StoppedError
        if self._limit is not None and self._file.tell() + len(data) > self._limit:
            self._file.truncate(0)  # a server that sends all where a rest was asked does better from the start
            raise OSError(f"{self._shown}: the hub sends more than the {self._limit} bytes it announced")
        return self._file.write(data)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
