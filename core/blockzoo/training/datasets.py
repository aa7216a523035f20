"""Documents of a Hugging Face data set, streamed: nothing is downloaded whole, one document is in memory at a time.

A folder or file of parquet, JSON lines, CSV or text on this machine goes the same way.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockzoo.errors import InputError
from blockzoo.training.data_config import DatasetConfig
from blockzoo.training.shards import file_hash
from blockzoo.training.split import Piece, is_held_out

SEPARATOR = "\n\n"
"""Between documents."""
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}


@dataclass
class DatasetCorpus:
    """A data set. Documents are held out by the hash of their number, so longer or shorter reads agree."""

    config: DatasetConfig
    held_out: float
    max_bytes: int | None = None
    _seen: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    @property
    def name(self) -> str:
        revision = "" if self.config.revision is None else f"@{self.config.revision[:12]}"
        return f"{self.config.name}{revision}"

    @property
    def key(self) -> str:
        """What is asked for: a revision pins it. Files on this machine are hashed."""
        config = self.config.model_dump(mode="json", exclude={"name"} if self.config.is_local else set())
        files = [file_hash(file) for file in self._local_files()] if self.config.is_local else []
        return hashlib.sha256(repr((sorted(config.items()), files, self.max_bytes)).encode()).hexdigest()

    def pieces(self) -> Iterator[Piece]:
        digest, n_bytes, n_documents, n_held_out = hashlib.sha256(), 0, 0, 0
        for text in self._documents():
            text += SEPARATOR
            data = text.encode(errors="replace")
            if self.max_bytes is not None and n_bytes + len(data) > self.max_bytes:
                data = data[: self.max_bytes - n_bytes]
            if not data:
                break
            held_out = is_held_out(str(n_documents), self.held_out)
            yield Piece(data.decode(errors="ignore"), held_out)
            digest.update(data)
            n_bytes += len(data)
            n_documents += 1
            n_held_out += held_out
        if not 0 < n_held_out < n_documents:
            raise InputError(
                f"{self.name}: of {n_documents} documents {n_held_out} are held out (data.held_out is {self.held_out});"
                " there must be some to train on and some to hold out: read more documents, or change data.held_out"
            )
        self._seen = {"text_sha256": digest.hexdigest(), "text_bytes": n_bytes, "documents": n_documents}

    def about(self) -> dict[str, Any]:
        assert self._seen, "asked before all pieces were read"
        return {"dataset": self.config.model_dump(mode="json"), **self._seen}

    def _documents(self) -> Iterator[str]:
        config = self.config
        rows = self._open()
        try:
            for number, row in enumerate(rows if config.max_documents is None else rows.take(config.max_documents)):
                if config.column not in row:
                    raise InputError(
                        f"{self.name}: has no column '{config.column}' (data.dataset.column); it has {', '.join(row)}"
                    )
                text = row[config.column]
                if not isinstance(text, str):
                    raise InputError(
                        f"{self.name}: document {number}, column '{config.column}': is {type(text).__name__}, no text"
                    )
                yield text
        except Exception as error:  # the library and those below it raise all sorts
            raise self._explained(error) from error

    def _open(self) -> Any:
        """The split as an iterable of rows."""
        datasets = _library()
        config = self.config
        try:
            if config.is_local:
                files = self._local_files()
                kind = FORMATS[files[0].suffix]
                files_of = {config.split: [str(file) for file in files]}
                return datasets.load_dataset(kind, data_files=files_of, split=config.split, streaming=True)
            return datasets.load_dataset(
                config.name, config.config, revision=config.revision, split=config.split, streaming=True
            )
        except Exception as error:  # the library and those below it raise all sorts
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> InputError:
        """The library's message, with the place; our own as it is."""
        if isinstance(error, InputError):
            return error
        why = " ".join(str(error).split())[:300]
        return InputError(f"{self.name}: can't be read, split '{self.config.split}' ({type(error).__name__}: {why})")

    def _local_files(self) -> list[Path]:
        path = Path(self.config.name).expanduser()
        if path.is_file():
            files = [path]
        elif path.is_dir():
            # <split>.parquet, <split>-00000-of-00002.parquet, <split>/anything, as the hub's folders have them
            files = [f for f in sorted(path.rglob("*")) if f.suffix in FORMATS and _is_of(f, path, self.config.split)]
        else:
            raise InputError(f"{path}: no such file or folder (data.dataset.name)")
        kinds = {FORMATS.get(file.suffix) for file in files}
        if not files or len(kinds) > 1 or None in kinds:
            found = ", ".join(file.name for file in files[:3]) or "none"
            raise InputError(
                f"{path}: expected files of one format ({', '.join(FORMATS)}) for the split '{self.config.split}'"
                f" (data.dataset.split), found {found}"
            )
        return files


def _is_of(file: Path, root: Path, split: str) -> bool:
    parts = file.relative_to(root).parts
    return split in parts[:-1] or file.stem == split or file.stem.startswith(f"{split}-")


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            "data.dataset needs the package 'datasets', which is not installed: pip install 'blockzoo[data]'"
        ) from error
