"""Noting what a pass calls: its inputs are wrapped, and whatever is computed from them is noted.

A wrapped tensor has no values for Python to look at, so a pass that decides anything by them fails instead of being
recorded with one decision in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class UnrecordableError(Exception):
    """Why a step can't be recorded; the message is for people."""


@dataclass
class Call:
    """A call that computes something, with the tensors themselves. ``in_place``: it wrote to tensors it was given."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    in_place: bool

    @property
    def name(self) -> str:
        return name_of(self.function)

    def read(self) -> list[Tensor]:
        return list(tensors_in((self.args, self.kwargs)))

    def written(self) -> list[Tensor]:
        return list(tensors_in(self.out))


@dataclass
class Trace:
    """The calls of one pass. It keeps every tensor alive, so that no two of them share memory."""

    calls: list[Call] = field(default_factory=list)

    def wrap(self, tensor: Tensor) -> Tensor:
        """The tensor as the pass gets to see it."""
        return Wrapped(tensor, self)

    def unwrap(self, tensor: Tensor) -> Tensor:
        """What a tensor of the pass holds."""
        if not isinstance(tensor, Wrapped):
            raise UnrecordableError("the logits don't depend on the tokens")
        return tensor.held

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call and note it, unless all it gives is a view or a fact about a shape."""
        versions = [(tensor, tensor._version) for tensor in tensors_in((args, kwargs))]
        out = function(*args, **kwargs)
        changed = [tensor for tensor, version in versions if tensor._version != version]
        old = {memory_of(tensor) for tensor, _ in versions}
        if changed:
            self.calls.append(Call(function, args, kwargs, changed, True))
        elif not all(memory_of(tensor) in old for tensor in tensors_in(out)):
            self.calls.append(Call(function, args, kwargs, out, False))
        elif not any(True for _ in tensors_in(out)) and name_of(function) not in FACTS:
            raise UnrecordableError(f"{name_of(function)}: the model looks at computed values")
        return out


FACTS = {
    *("shape", "dtype", "device", "ndim", "itemsize", "layout", "requires_grad", "grad_fn"),
    *("is_cuda", "is_meta", "is_sparse", "is_quantized", "is_leaf", "is_contiguous", "is_floating_point", "is_complex"),
    *("size", "stride", "dim", "numel", "nelement", "element_size", "storage_offset", "__len__"),
}
"""What a tensor says without its values."""


def name_of(function: Callable[..., Any]) -> str:
    """Of a property the property's."""
    name = getattr(function, "__name__", str(function))
    return getattr(getattr(function, "__self__", None), "__name__", name) if name == "__get__" else name


def memory_of(tensor: Tensor) -> int:
    """What tells one piece of memory from another while both are held."""
    return tensor.untyped_storage()._cdata


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nest of lists, tuples and dictionaries with its leaves changed."""
    if isinstance(value, dict):
        return {key: mapped(change, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [mapped(change, part) for part in value]
        return type(value)._make(parts) if hasattr(value, "_make") else type(value)(parts)
    return change(value)


def leaves(value: Any) -> Iterator[Any]:
    """What ``mapped`` changes."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def tensors_in(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


class Wrapped(Tensor):
    """A tensor whose uses are noted. It has no memory of its own: who goes past PyTorch's functions finds nothing."""

    held: Tensor
    noting: Trace

    @staticmethod
    def __new__(cls, held: Tensor, trace: Trace) -> Wrapped:
        nowhere = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        made = torch.Tensor._make_subclass(cls, nowhere)
        made.held, made.noting = held, trace
        return made

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in leaves((args, kwargs or {})) if isinstance(leaf, Wrapped)]
        themselves = {id(tensor.held): tensor for tensor in given}  # what is written in place stays what it was
        trace = given[0].noting

        def seen(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return themselves[id(leaf)] if id(leaf) in themselves else Wrapped(leaf, trace)

        return mapped(seen, trace.call(function, mapped(_held, args), mapped(_held, kwargs or {})))


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, Wrapped) else leaf
