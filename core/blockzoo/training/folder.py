"""The folder of a run: all that is known of it, on disk."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blockzoo.checkpoints.atomic import write_file
from blockzoo.errors import CheckpointError
from blockzoo.training.checkpoint import Checkpoints
from blockzoo.training.lock import alone
from blockzoo.training.metrics import Metrics

State = Literal["new", "running", "interrupted", "failed", "done"]


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: the truth about it. Results are read from here, never from logs.

    ``run.json`` what was asked for; ``status.json`` how far it is; ``metrics.jsonl`` a line a step; ``checkpoints/`` to
    go on from; ``model/`` the trained model; ``result.json`` the figures.
    """

    path: Path

    @property
    def model(self) -> Path:
        """The trained model, as ``from_pretrained`` reads it."""
        return self.path / "model"

    @property
    def metrics(self) -> Metrics:
        return Metrics(self.path / "metrics.jsonl")

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints")

    def status(self) -> dict[str, Any]:
        """``state`` and, where it failed or stopped, ``error``."""
        return self.read("status.json") or {"state": "new"}

    def result(self) -> dict[str, Any] | None:
        """The figures of a finished run."""
        return self.read("result.json")

    def read(self, name: str) -> dict[str, Any] | None:
        """One of the folder's JSON files, None where it isn't there. Raises CheckpointError for a damaged one."""
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: can't read it ({error}); delete {self.path} to start again") from error

    def set_status(self, state: State, error: str | None = None) -> None:
        self.write("status.json", {"state": state, **({"error": error} if error else {})})

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write one of the folder's JSON files whole. Raises CheckpointError for what the file system refuses."""
        write_file(self.path / name, json.dumps(value, indent=1) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in this folder. Raises BusyError where another process is at work in it; a dead one's lock is void."""
        with alone(self.path, f"{self.path}: another process trains this run; wait for it or stop it"):
            yield


def clear(folder: RunFolder) -> None:
    """Empty a run folder, its lock apart."""
    for entry in folder.path.iterdir():
        if entry.name != "lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def open_run(path: Path) -> RunFolder | None:
    """The run folder at a path, None where there is none."""
    return RunFolder(path) if (path / "run.json").is_file() else None
