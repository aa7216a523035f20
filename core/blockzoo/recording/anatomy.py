"""What a recording takes for granted of a model: the blocks that it is made of, and that nobody exchanges its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from blockzoo.blocks import BlockConfig, QuantizerConfig


class Anatomy:
    """The modules of a model, their weights, and where these lie. It keeps their memory, so no other tensor gets it."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._children = [(m._modules, name, child) for m in self._modules for name, child in m._modules.items()]
        self._tensors: list[tuple[dict[str, Any], str, Tensor, int]] = []
        self._memory: list[Tensor] = []
        for module in self._modules:
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        self._tensors.append((held, name, tensor, tensor.data_ptr()))
                        self._memory.append(tensor.detach())

    def holds(self) -> bool:
        """Whether every part is still in its place, every weight in its memory, and nobody watches."""
        return (
            all(held.get(name) is child for held, name, child in self._children)
            and all(held.get(name) is t and t.data_ptr() == place for held, name, t, place in self._tensors)
            and not self.watched()
        )

    def watched(self) -> bool:
        """Whether a module has forward hooks."""
        if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
            return True
        return any(module._forward_hooks or module._forward_pre_hooks for module in self._modules)


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
