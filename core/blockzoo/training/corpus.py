"""Text on this machine: which files, in which order, and the hash that says it is the same text.

The default needs no network: the Python standard library's sources and ``pydoc_data/topics.py``, about 12 MB.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blockzoo.errors import InputError
from blockzoo.training.config import DataConfig

PIECE = 1 << 16
"""Characters of text that are held out or trained on together, about."""

_NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__", "lib2to3"})
"""Installed packages and tests: they differ between machines of one Python version."""


@dataclass(frozen=True)
class Document:
    """One text file. ``name`` is its path inside the corpus."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of their names. ``skipped``: files that are no UTF-8 text."""

    name: str
    documents: tuple[Document, ...]
    skipped: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        return sum(len(document.text.encode()) for document in self.documents)

    @property
    def manifest(self) -> list[dict[str, object]]:
        """Name, bytes and sha256 of each document."""
        return [
            {"name": d.name, "bytes": len(d.text.encode()), "sha256": hashlib.sha256(d.text.encode()).hexdigest()}
            for d in self.documents
        ]

    @property
    def sha256(self) -> str:
        """Of all names and texts."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(f"{document.name}\0{len(document.text)}\0".encode() + document.text.encode())
        return digest.hexdigest()


def read_corpus(config: DataConfig) -> Corpus:
    """The text that a config names. Raises InputError where there is none."""
    if config.path is None:
        name, root, files = "the Python standard library", *_standard_library()
    else:
        name, root, files = str(config.path), *_given(config.path)
    documents, skipped, left = [], [], config.max_bytes
    for file in files:
        text = _text(file)
        relative = file.relative_to(root).as_posix()
        if text is None:
            skipped.append(relative)
            continue
        if left is not None:
            text = text.encode()[:left].decode(errors="ignore")
            left -= len(text.encode())
        if text:
            documents.append(Document(relative, text))
        if left is not None and left <= 0:
            break
    if not documents:
        raise InputError(f"{name}: no UTF-8 text in it" + (f" (looked at {', '.join(skipped[:3])})" if skipped else ""))
    return Corpus(name, tuple(documents), tuple(skipped))


def split(corpus: Corpus, held_out: float) -> tuple[list[str], list[str]]:
    """Pieces of text to train on and to hold out, in the corpus's order.

    Documents are cut at line ends into pieces of about ``PIECE`` characters (smaller in a small corpus); the pieces
    whose names hash lowest are held out until ``held_out`` of the text is reached: a new file elsewhere moves little.
    """
    total = sum(len(document.text) for document in corpus.documents)
    size = min(PIECE, max(1, total // 40))
    pieces = [
        (hashlib.sha256(f"{document.name}\0{index}".encode()).digest(), text)
        for document in corpus.documents
        for index, text in enumerate(_pieces(document.text, size))
    ]
    chosen: set[int] = set()
    taken = 0
    for index in sorted(range(len(pieces)), key=lambda i: pieces[i][0]):
        if taken >= held_out * total or len(chosen) == len(pieces) - 1:
            break
        chosen.add(index)
        taken += len(pieces[index][1])
    if not chosen:
        raise InputError(f"{corpus.name}: too short to hold {held_out:.0%} of it out; give more text")
    train = [text for index, (_, text) in enumerate(pieces) if index not in chosen]
    return train, [pieces[index][1] for index in sorted(chosen)]


def _pieces(text: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        line_end = text.find("\n", start + size)
        # a line longer than a piece (minified data) is cut where it is
        end = line_end + 1 if 0 <= line_end < start + 2 * size else start + size
        yield text[start:end]
        start = end


def _standard_library() -> tuple[Path, list[Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    files = [
        file for file in root.rglob("*.py") if not _NOT_THE_LIBRARY.intersection(file.relative_to(root).parts[:-1])
    ]
    if not files:
        raise InputError(f"{root}: this Python has no library sources; give text with --data")
    return root, _by_name(root, files)


def _given(path: Path) -> tuple[Path, list[Path]]:
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; data is a text file or a folder of them")
    files = [
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        raise InputError(f"{path}: no files in this folder")
    return path, _by_name(path, files)


def _by_name(root: Path, files: list[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())


def _text(file: Path) -> str | None:
    """The file's text with plain line ends, or None where it is no UTF-8 text."""
    try:
        data = file.read_bytes()
        return None if b"\0" in data else data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise InputError(f"{file}: can't read it: {error.strerror}") from error
