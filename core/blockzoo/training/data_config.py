"""What a model is trained on: the ``data`` section of YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from blockzoo.config.schema import Section
from blockzoo.training.tasks import TaskConfig

SOURCES = ("path", "dataset", "task")


class DatasetConfig(Section):
    """YAML: ``dataset: {name: roneneldan/TinyStories, revision: f54c09fd23315a6f9c86f9dc80f725de7d8f9c64}``.

    Read by Hugging Face ``datasets`` (extra ``[data]``), document after document, never whole.
    """

    name: str = Field(
        min_length=1, description="owner/name on the hub; a folder or file here begins with ./, ../, / or ~"
    )
    revision: str | None = Field(
        None, description="the commit, 40 hexadecimal digits: a branch would mean another text tomorrow"
    )
    config: str | None = Field(None, description="which of the data set's configurations; default: its only one")
    split: str = Field("train", min_length=1, description="which split; the held-out part is taken from it too")
    column: str = Field("text", min_length=1, description="the column that holds the text")
    max_documents: PositiveInt | None = Field(None, description="read only the first documents")

    @property
    def is_local(self) -> bool:
        return self.name.startswith((".", "/", "~"))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_local:
            if self.revision is not None:
                raise ValueError(f"{self.name} lies on this machine and has no revision; leave it out")
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.name) is None:
            raise ValueError(f"{self.name!r} is no data set: owner/name, or a path that begins with ./, ../, / or ~")
        elif self.revision is None:
            raise ValueError(f"give the revision of {self.name}: the commit, 40 hexadecimal digits, from its history")
        elif re.fullmatch("[0-9a-f]{40}", self.revision) is None:
            raise ValueError(
                f"revision is {self.revision!r}: branches and tags move; give the commit, 40 hexadecimal digits"
            )
        return self


class DataConfig(Section):
    """YAML: ``data: {path: corpus.txt}``. Default: the Python standard library's own text, which every machine has.

    At most one of path, dataset and task.
    """

    path: Path | None = Field(None, description="a text file or a folder of them")
    dataset: DatasetConfig | None = Field(None, description="documents of a Hugging Face data set")
    task: Annotated[TaskConfig, Field(discriminator="type")] | None = Field(
        None, description="questions with exact answers, made up as they are needed"
    )
    held_out: float = Field(0.05, gt=0, lt=1, description="fraction that is kept for evaluation")
    max_bytes: PositiveInt | None = Field(None, description="read only this much text, in its order")
    verify: bool = Field(
        False, description="hash every cached token before a run, however many; else only the first 256 MiB's worth"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; data comes from one of {', '.join(SOURCES)}")
        if self.task is not None and self.max_bytes is not None:
            raise ValueError("a task has no end, so max_bytes means nothing; train.tokens says how much is trained on")
        return self

    def seen_from(self, folder: Path) -> DataConfig:
        """The same with relative paths seen from ``folder``, where the YAML lies."""
        if self.path is not None:
            return self.model_copy(update={"path": folder / self.path.expanduser()})
        if self.dataset is not None and self.dataset.is_local:
            name = str(folder.absolute() / Path(self.dataset.name).expanduser())
            return self.model_copy(update={"dataset": self.dataset.model_copy(update={"name": name})})
        return self
