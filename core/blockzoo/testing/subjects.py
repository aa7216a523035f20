"""A sample of a block with what it takes to build and to call it: checks see no difference between the kinds.

Modules come to life as in a model: made on the meta device, allocated, filled by name from what ``cost`` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blockzoo.blocks import AttentionPositionConfig, BlockConfig, Cost, Parameter, Role
from blockzoo.registry import Registry
from blockzoo.step import Step


@dataclass(frozen=True)
class BlockSubject:
    """One sample. ``make`` constructs the module, ``call(module, x (B, T, D), step)`` is its output (B, T, ...).

    ``label`` says what is around it too, such as a position; ``sample`` is the sample alone.
    """

    label: str
    sample: str
    config: BlockConfig
    registry: Registry
    make: Callable[[], nn.Module]
    cost: Callable[[int], Cost]
    call: Callable[[nn.Module, Tensor, Step], Tensor]
    position: AttentionPositionConfig | None = None

    @property
    def around(self) -> str:
        """What the label says beside the sample."""
        return self.label.removeprefix(self.sample)

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """The module with weights drawn by name from ``seed``, in evaluation mode."""
        with torch.device("meta"):
            module = self.make()
        module.to(dtype).to_empty(device="cpu")
        cost = self.cost(1)
        with torch.no_grad():
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                tensor.copy_(_filling({**cost.parameters, **cost.buffers}.get(name), name, tuple(tensor.shape), seed))
        return module.eval()


def _filling(parameter: Parameter | None, name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Values at which nothing hides: gains are not all 1, biases and sinks not 0, matrices keep the size of vectors."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    noise = torch.randn(shape, generator=generator)
    role = Role.OTHER if parameter is None else parameter.role
    start = torch.full(shape, 1.0 if role is Role.GAIN else 0.0)
    if parameter is not None and parameter.init is not None and parameter.shape == shape:
        parameter.init(start, generator)
        if role is Role.OTHER:
            return start
    if role in (Role.GAIN, Role.BIAS, Role.SINK, Role.OTHER):
        return start + 0.2 * noise
    return noise if role is Role.EMBEDDING else noise * (2.0 if role is Role.ROUTER else 1.0) * shape[-1] ** -0.5
