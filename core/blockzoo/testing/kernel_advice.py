"""What may be behind a kernel's failure: the wrong op, an argument that it doesn't take, an option that it ignores."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from blockzoo.kernels import Example, Kernel, Op
from blockzoo.testing.ops import CPU

Ops = Mapping[str, Op]
QUANTIZER = "; the weight is packed, as {}: say no where call.static['quantizer'] is not one you read"


def keys_of(op: Op) -> set[str]:
    """What a slot of this op may say of a call beforehand: what it declares and what its examples say."""
    return set(op.static).union(*(example.static for example in op.examples(torch.float32, CPU)))


def missing_static(key: str, op: Op, ops: Ops) -> str:
    """What to do about a ``call.static[key]`` that an example says nothing of."""
    if key in keys_of(op):
        return f": read it by call.static.get({key!r})"
    others = [name for name, other in ops.items() if key in keys_of(other)]
    if others:
        return f"; {registered_for(op, f'`{key}` is a key of {_names(others)}')}"
    return f": read it by call.static.get({key!r}); `{op.name}` has {_names(sorted(keys_of(op))) or 'no keys'}"


def misfit(kernel: Kernel, op: Op, ops: Ops, example: Example) -> str | None:
    """Why a kernel's function can't be called with an example of the op, and what to do; None where it can.

    An argument by name may be all that it lacks; or it takes those of another op.
    """
    if _takes(kernel.function, example):
        return None
    others = [name for name, other in ops.items() if name != op.name and _takes(kernel.function, _first(other))]
    if others:
        return registered_for(op, f"its function takes the arguments of {_names(others)}")
    lacking = [name for name in example.kwargs if not _has(kernel.function, name)]
    if lacking and _takes(kernel.function, example, without=lacking):
        return f"its function lacks {_names(lacking)}, which calls of `{op.name}` pass by name: take `*, {lacking[0]}`"
    return f"its function can't take what calls of `{op.name}` pass: give it the arguments {_arguments(op)}"


def registered_for(op: Op, fact: str) -> str:
    return f"it is registered for `{op.name}`; {fact}: name the op it is for in registry.kernel(...)"


def ignored(op: Op, plain: Example, example: Example) -> str:
    """What the example has that ``plain``, the op's first one, lacks: options that ``supports`` may say no to."""
    extra = [name for name, value in example.static.items() if value and not plain.static.get(name)]
    passed = inspect.signature(op.reference).bind(*example.args, **example.kwargs).arguments
    bias = "" if passed.get("bias") is None or "bias" in example.static else "; does it add the bias?"
    return bias + (f"; if it ignores {', '.join(extra)}, supports() should say no to that" if extra else "")


def packed(example: Example) -> str:
    """Where the weight is a quantizer's tensors: which."""
    if example.kwargs.get("quantizer") is None:
        return ""
    return QUANTIZER.format(", ".join(f"'{name}'" for name in example.args[0]))


def _first(op: Op) -> Example:
    return next(iter(op.examples(torch.float32, CPU)))


def _takes(function: Callable[..., Any], example: Example, without: list[str] | None = None) -> bool:
    """Whether it can be called so. A function that shows no signature, as of an extension, may be."""
    named = {name: value for name, value in example.kwargs.items() if name not in (without or ())}
    try:
        inspect.signature(function).bind(*example.args, **named)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _has(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _arguments(op: Op) -> str:
    """``(weight, x, bias, *, quantizer)``: names without types."""
    return str(_bare(inspect.signature(op.reference)))


def _bare(signature: inspect.Signature) -> inspect.Signature:
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
