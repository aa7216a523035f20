"""A run's figures as TensorBoard's event files, written by torch's own writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """One scalar for each figure, by the step, and the run's config as text.

    When a run goes on, the events after its checkpoint are void: the new file's first step says so to TensorBoard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = ""
        self.writer: SummaryWriter | None = None

    def start(self, config: Mapping[str, Any]) -> None:
        self.config = json.dumps(config, indent=1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder), purge_step=step)
            self.writer.add_text("config", f"```json\n{self.config}\n```", global_step=step)
        for name, value in figures.items():
            self.writer.add_scalar(name, value, global_step=step)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        if self.writer is not None:
            self.writer.close()
