"""Where training text comes from, read a piece at a time: what all sources share, and files on this machine.

The default needs no network: the Python standard library's sources and ``pydoc_data/topics.py``, about 12 MB.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blockzoo.errors import InputError
from blockzoo.training.data_config import DataConfig
from blockzoo.training.split import Piece, choose, cut, piece_size

CHUNK = 1 << 20
"""Bytes of a file read at a time."""

_NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__", "lib2to3"})
"""Installed packages and tests: they differ between machines of one Python version."""


class Corpus(Protocol):
    """Text in an order of its own."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str:
        """What the text is, as far as it can be known without reading all of a stream: finds its tokens again."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """All text, in pieces to train on or to hold out. Raises InputError for what can't be read."""
        ...

    def about(self) -> dict[str, Any]:
        """What to write down beside the tokens, once ``pieces`` has come to its end."""
        ...


@dataclass(frozen=True)
class TextFile:
    """One text file. ``name`` is its path inside the corpus; the rest is of its text with plain line ends."""

    name: str
    path: Path
    n_bytes: int
    n_characters: int
    sha256: str
    limit: int | None

    def read(self) -> Iterator[str]:
        """The text in parts. Raises InputError where the file is not what it was."""
        digest = hashlib.sha256()
        try:
            for part in text_of(self.path, self.limit):
                digest.update(part.encode())
                yield part
        except UnicodeDecodeError:
            digest.update(b"\0")  # no text any more
        if digest.hexdigest() != self.sha256:
            raise InputError(f"{self.path}: was changed while it was read; start again")


@dataclass(frozen=True)
class TextCorpus:
    """Files in the order of their names. ``skipped``: files that are no UTF-8 text."""

    name: str
    files: tuple[TextFile, ...]
    held_out: float
    skipped: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self.files)

    @property
    def key(self) -> str:
        """The hash of all names and texts."""
        lines = "".join(f"{file.name}\0{file.sha256}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def pieces(self) -> Iterator[Piece]:
        total = sum(file.n_characters for file in self.files)
        size = piece_size(total)
        names = [
            (f"{file.name}\0{i}", len(text)) for file in self.files for i, text in enumerate(cut(file.read(), size))
        ]
        chosen = choose(names, self.held_out * total)
        if not chosen:
            raise InputError(f"{self.name}: too short to hold {self.held_out:.0%} of it out; give more text")
        texts = (text for file in self.files for text in cut(file.read(), size))
        for index, text in enumerate(texts):
            yield Piece(text, index in chosen)

    def about(self) -> dict[str, Any]:
        documents = [{"name": f.name, "bytes": f.n_bytes, "sha256": f.sha256} for f in self.files]
        return {"text_sha256": self.key, "text_bytes": self.n_bytes, "skipped": self.skipped, "documents": documents}


def read_corpus(config: DataConfig) -> TextCorpus:
    """The files that a config names, each read once for its hash. Raises InputError where there is no text."""
    if config.path is None:
        name, root, paths = "the Python standard library", *_standard_library()
    else:
        name, root, paths = str(config.path), *_given(config.path)
    files, skipped, left = [], [], config.max_bytes
    for path in paths:
        relative = path.relative_to(root).as_posix()
        file = _scan(relative, path, left)
        if file is None:
            skipped.append(relative)
            continue
        if file.n_bytes:
            files.append(file)
        if left is not None:
            left -= file.n_bytes
            if left <= 0:
                break
    if not files:
        raise InputError(f"{name}: no UTF-8 text in it" + (f" (looked at {', '.join(skipped[:3])})" if skipped else ""))
    return TextCorpus(name, tuple(files), config.held_out, tuple(skipped))


def text_of(file: Path, limit: int | None = None) -> Iterator[str]:
    """A file's text with plain line ends, at most ``limit`` bytes of it, in parts.

    Raises UnicodeDecodeError for a file that is no UTF-8 text and InputError for one that can't be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held = ""
    try:
        with file.open("rb") as opened:
            while limit is None or limit > 0:
                data = opened.read(CHUNK)
                if b"\0" in data:
                    raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "a file with zero bytes is no text")
                text = held + decoder.decode(data, final=not data)
                held = "\r" if data and text.endswith("\r") else ""  # the other half of the line end may follow
                text = text.removesuffix(held).replace("\r\n", "\n")
                if limit is not None:
                    encoded = text.encode()
                    text = encoded[:limit].decode(errors="ignore")
                    limit = max(0, limit - len(encoded))
                if text:
                    yield text
                if not data:
                    return
    except OSError as error:
        raise InputError(f"{file}: can't read it: {error.strerror}") from error


def _scan(name: str, path: Path, limit: int | None) -> TextFile | None:
    """What a file holds, None where it is no text."""
    digest, n_bytes, n_characters = hashlib.sha256(), 0, 0
    try:
        for text in text_of(path, limit):
            data = text.encode()
            digest.update(data)
            n_bytes += len(data)
            n_characters += len(text)
    except UnicodeDecodeError:
        return None
    return TextFile(name, path, n_bytes, n_characters, digest.hexdigest(), limit)


def _standard_library() -> tuple[Path, list[Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    files = [file for file in _walk(root, lambda folder: folder in _NOT_THE_LIBRARY) if file.suffix == ".py"]
    if not files:
        raise InputError(f"{root}: this Python has no library sources; give text with --data")
    return root, files


def _given(path: Path) -> tuple[Path, list[Path]]:
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; data is a text file or a folder of them")
    files = [file for file in _walk(path, lambda folder: folder.startswith(".")) if not file.name.startswith(".")]
    if not files:
        raise InputError(f"{path}: no files in this folder")
    return path, files


def _walk(root: Path, leaves_out: Callable[[str], bool]) -> list[Path]:
    """The files below ``root`` in the order of their names, but for folders that are left out."""
    found = []
    for parent, folders, names in os.walk(root):
        folders[:] = [folder for folder in folders if not leaves_out(folder)]
        found += [file for name in names if (file := Path(parent, name)).is_file()]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())
