"""The C kernels' one way in: a call is a struct of 8-byte members, and an operation an op of torch's besides.

torch.compile, export and whatever else looks on see the op; a plain call goes straight to C.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from blockzoo_cpu.library import function

OPS = torch.library.Library("blockzoo_cpu", "DEF")
OPERATIONS = (
    *("rows", "attend", "rms_norm", "layer_norm", "rotary", "gate", "gelu_tanh", "gelu_tanh_backward"),
    *("choose_experts", "weigh_experts", "mix_experts", "add", "copy", "tiled_attention", "tiled_attention_backward"),
    *("blocked_attention", "blocked_attention_backward"),
)
"""In the order of calls.c."""

Made = TypeVar("Made", bound=Tensor | tuple[Tensor, ...])


@dataclass(frozen=True)
class Operation(Generic[Made]):
    """A C kernel. ``ready``: a call's arguments as the code reads them; ``like``: of these, an empty result, a tuple
    where there are several; ``told``: of the result and these, the members of the kernel's struct. A call's first
    argument is a tensor. ``like`` is asked with symbolic shapes too: ``len(x)`` would fix what ``x.shape[0]``
    leaves open.
    """

    name: str
    members: struct.Struct
    like: Callable[..., Made]
    told: Callable[..., tuple[int | float, ...]]
    ready: Callable[..., tuple[Any, ...]]

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, x: Tensor, *rest: Any) -> Made:
        if has_torch_function((x, *rest)):
            return handle_torch_function(self, (x, *rest), x, *rest)
        if type(x) is Tensor and not torch.compiler.is_compiling():  # torch's dispatcher costs more than a small kernel
            return self.run(x, *rest)
        return getattr(torch.ops.blockzoo_cpu, self.name)(x, *rest)

    def run(self, *arguments: Any) -> Made:
        """The call itself. Raises MemoryError."""
        arguments = self.ready(*arguments)
        y = self.like(*arguments)
        if _run_one()(OPERATIONS.index(self.name), self.pack(y, *arguments)):
            raise MemoryError(f"no memory for what {self.name} of shape {tuple(arguments[0].shape)} wants beside it")
        return y

    def pack(self, y: Made, *arguments: Any) -> bytes:
        """The struct of a call of arguments that are ready."""
        return self.members.pack(*self.told(y, *arguments))


def operation(
    schema: str,
    members: str,
    *,
    like: Callable[..., Made],
    told: Callable[..., tuple[int | float, ...]],
    ready: Callable[..., tuple[Any, ...]],
) -> Operation[Made]:
    """An operation, and ``torch.ops.blockzoo_cpu.NAME``. ``members``: q, an integer or an address; d, a double."""
    made = Operation(schema.partition("(")[0], struct.Struct(f"={members}"), like, told, ready)
    OPS.define(schema)
    OPS.impl(made.name, made.run, "CPU")
    torch.library.register_fake(f"blockzoo_cpu::{made.name}", like, lib=OPS)
    return made


def packed(members: str, *values: int | float) -> bytes:
    """The struct of a call that only a recording makes."""
    return struct.pack(f"={members}", *values)


def place(tensor: Tensor | None) -> int:
    """Its address, 0 of none."""
    return 0 if tensor is None else tensor.data_ptr()


def in_one_piece(*arguments: Any) -> tuple[Any, ...]:
    """``ready`` where every tensor is read as it lies."""
    return tuple(a.contiguous() if isinstance(a, Tensor) else a for a in arguments)


def heads_as_they_lie(x: Tensor) -> Tensor:
    """x (B, H, T, D), copied only where a token's features don't lie side by side."""
    return x if x.stride(3) == 1 else x.contiguous()


def lying_as(x: Tensor, *rest: object) -> Tensor:
    """Empty heads that lie as x does, or in one piece where that is how they would be read."""
    made = torch.empty_like(x)
    return made if made.stride(3) == 1 else x.new_empty(x.shape)


def like_the_first(x: Tensor, *rest: object) -> Tensor:
    """``like`` where the result has the first argument's shape."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@cache
def _run_one() -> Any:
    return function("run_one", ctypes.c_int64, ctypes.c_char_p)
