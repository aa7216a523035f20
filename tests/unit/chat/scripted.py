"""A sampler that draws what a script says: a tiny random model then says something worth reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blockzoo.chat.messages import Message
from blockzoo.chat.session import Session
from blockzoo.generation import Sampler


@dataclass(frozen=True)
class Scripted(Sampler):
    script: Iterator[int] = field(default_factory=lambda: iter(()))
    before: Callable[[], object] = lambda: None

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        self.before()
        return [next(self.script)]


def say(session: Session, *messages: Message) -> str:
    """The answer to messages, part by part: ``kind[name]: text``."""
    said = []
    for delta in session.answer(*messages):
        part = delta.part
        said += [f"{part.kind}{f'[{part.name}]' if part.name else ''}: "] if delta.opens or not said else []
        said[-1] += part.text
    return " | ".join(said)
