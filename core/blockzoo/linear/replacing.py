"""Blocks write ``nn.Linear`` and ``ExpertLinear``; here others take their places, and their weights are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from blockzoo.kernels import Kernel
from blockzoo.linear.ops import EXPERT_LINEAR, LINEAR, unpacked
from blockzoo.linear.plain import ExpertLinear, SlottedLinear
from blockzoo.linear.stored import StoredLinear
from blockzoo.linear.trained import FakeQuantLinear

AnyLinear = nn.Linear | ExpertLinear
REPLACEABLE = (nn.Linear, SlottedLinear, ExpertLinear)
"""Exactly these: a subclass, such as a router, is its block's own."""


def matrix(linear: nn.Module, dtype: torch.dtype) -> Tensor:
    """The (out, in) matrix that ``linear`` multiplies by, (E, out, in) of an expert linear, however it is stored.

    For a block that needs the weight itself; its ``nn.Linear`` may have become packed or trained through a quantizer.
    Packed bytes are unpacked anew at each call; gradients reach a weight that trains.
    """
    if isinstance(linear, StoredLinear):
        return unpacked(linear.canonical(), dtype, linear.quantizer).to(dtype)
    if isinstance(linear, FakeQuantLinear):
        return linear.quantize(linear.weight).to(dtype)
    assert isinstance(linear, AnyLinear)
    return linear.weight.to(dtype)


def replace_linears(model: nn.Module, replacement: Callable[[str, AnyLinear], nn.Module | None]) -> None:
    """Ask ``replacement(name, linear)`` for every linear and expert linear; what it returns takes the place."""
    found = [(name, module) for name, module in model.named_modules() if type(module) in REPLACEABLE]
    for name, module in found:
        assert isinstance(module, (nn.Linear, ExpertLinear))
        new = replacement(name, module)
        if new is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new)


def chosen_for_matrices(kernels: Mapping[str, Sequence[Kernel]], choose: Mapping[str, str]) -> list[Kernel]:
    """The kernels that are asked for by name for linears and expert linears."""
    return [k for op in (LINEAR.name, EXPERT_LINEAR.name) for k in kernels.get(op, ()) if k.name == choose.get(op)]


def give_slots(model: nn.Module, chosen: Sequence[Kernel]) -> None:
    """Put every matrix into a slot for kernels; its layout can change where a chosen kernel has one of its own."""
    replace_linears(model, stored if any(kernel.layout for kernel in chosen) else slotted)


def slotted(name: str, linear: AnyLinear) -> SlottedLinear | None:
    """The same linear with a slot for kernels: a replacement for ``replace_linears``."""
    return SlottedLinear(linear) if type(linear) is nn.Linear else None


def stored(name: str, linear: AnyLinear) -> StoredLinear:
    """The same linear, ready for a kernel's layout: a replacement for ``replace_linears``. It shares the weight."""
    return StoredLinear(tuple(linear.weight.shape), linear.bias, None, weight=linear.weight)
