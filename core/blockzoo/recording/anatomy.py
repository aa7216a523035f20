"""What a recording takes for granted of a model: the blocks that it is made of, and that nobody exchanges its parts."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from blockzoo.blocks import BlockConfig, QuantizerConfig


class Anatomy:
    """The modules of a model, their weights, and where these lie. It keeps their memory, so no other tensor gets it."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        dicts = [held for m in modules for held in (m._modules, m._parameters, m._buffers)]
        parts = [(held, name, part) for held in dicts for name, part in held.items()]
        self._dicts, self._names, self._parts = zip(*parts, strict=True)
        self._tensors = [part for part in self._parts if isinstance(part, Tensor)]
        self._places = [tensor.data_ptr() for tensor in self._tensors]
        self._memory = [tensor.detach() for tensor in self._tensors]
        self._hooks = [hook for m in modules for hook in (m._forward_hooks, m._forward_pre_hooks)]

    def holds(self) -> bool:
        """Whether every part is still in its place, every weight in its memory, and nobody watches."""
        found = map(dict.get, self._dicts, self._names)  # no loops of Python: every token asks
        return (
            all(map(operator.is_, found, self._parts))
            and list(map(Tensor.data_ptr, self._tensors)) == self._places
            and not self.watched()
        )

    def watched(self) -> bool:
        """Whether a module has forward hooks."""
        return any(self._hooks) or bool(hooks._global_forward_hooks or hooks._global_forward_pre_hooks)


def blocks_of(config: BaseModel) -> Iterator[BlockConfig]:
    """Every block of a model's config, those inside blocks too, each once; quantizers have no module of their own."""
    seen: set[int] = set()
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, BaseModel) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, BlockConfig) and not isinstance(value, QuantizerConfig):
                yield value
            waiting.extend(getattr(value, name) for name in type(value).model_fields)


def declared(block: BlockConfig) -> bool:
    """Whether its own class declares it recordable: a promise says nothing of a class that is derived from it."""
    return "recordable" in vars(type(block)) and block.recordable
