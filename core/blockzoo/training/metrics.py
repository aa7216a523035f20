"""Metrics of a run: one JSON object a line, one line a step. Time is in ``seconds``; all else repeats bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blockzoo.checkpoints.atomic import write_file
from blockzoo.errors import CheckpointError


class Metrics:
    """A JSONL file that is only ever appended to, and cut back to a checkpoint when its run resumes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Raises CheckpointError for what the file system refuses."""
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise CheckpointError(f"{self.file}: can't write metrics: {error.strerror}") from error

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; the last may have been cut off when its process died."""
        if not self.file.exists():
            return []
        found = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found

    def truncate(self, step: int) -> None:
        """Forget what came after ``step``."""
        kept = [line for line in self.read() if line["step"] <= step]
        write_file(self.file, "".join(json.dumps(line) + "\n" for line in kept))


class Unwritten(Metrics):
    """Those of a process that isn't the first of its run."""

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        pass

    def truncate(self, step: int) -> None:
        pass
