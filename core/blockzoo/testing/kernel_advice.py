"""What may be behind a kernel's failure: the wrong op, an argument that it doesn't take, an option that it ignores."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blockzoo.blocks import BlockConfig
from blockzoo.kernels import Example, Kernel, Op
from blockzoo.testing.ops import CPU, tensors_of

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


def ignored(op: Op, plain: Example, example: Example, gives: Callable[[Callable[..., Tensor]], bool]) -> str:
    """Which options of the example the kernel ignores: those without which the reference ``gives`` its result.

    ``plain``, the op's first example, tells what an option is where it does nothing.
    """
    call, usual = arguments_of(op, example), arguments_of(op, plain)
    options: dict[str, Any] = {}
    for name, value in call.items():
        if _is_option(value, usual[name]):
            nothing = None if isinstance(value, Tensor) else usual[name]
            try:
                same = gives(functools.partial(op.reference, **{**call, name: nothing}))
            except Exception:  # the op can't be called without it
                continue
            options[name] = nothing
            if same:
                return _ignores(op, example, [name])
    every = len(options) > 1 and gives(functools.partial(op.reference, **{**call, **options}))
    return _ignores(op, example, list(options)) if every else ""


def _ignores(op: Op, example: Example, names: list[str]) -> str:
    said = all(name in op.static or name in example.static for name in names)
    return f"; it ignores {_names(names)}" + (": heed it, or say no to it in supports()" if said else "")


def arguments_of(op: Op, example: Example) -> dict[str, Any]:
    """What a call passes, by name."""
    call = inspect.signature(op.reference).bind(*example.args, **example.kwargs)
    call.apply_defaults()
    return call.arguments


def _is_option(value: Any, usual: Any) -> bool:
    """Whether an argument says something here that it need not, as an optional tensor or another number than usual."""
    plain = usual is None or isinstance(usual, (bool, int, float, str))
    return isinstance(value, Tensor) or (plain and value is not None and value != usual)


def rounding(example: Example, dtype: torch.dtype, off: float, within: float) -> str:
    """What to do where a narrow dtype's result is off by so little that it is rounded too often."""
    if dtype.itemsize > 2 or off > 10 * within:
        return ""
    if example.within is not None:
        return "; its numbers show a single rounding: round where the reference rounds"
    return f", nor is it as near as that to what float64 gives: compute in float32, round once, or say no to {dtype}"


def set_apart(op: Op, failed: Sequence[Example], passed: Sequence[Example]) -> str:
    """Which argument has values in the examples that fail that it has in none that pass."""
    found = []
    for name in inspect.signature(op.reference).parameters if passed else ():
        of_failed, of_passed = (list(dict.fromkeys(_told(op, e, name) for e in group)) for group in (failed, passed))
        if None not in of_failed and not set(of_failed) & set(of_passed):
            found.append(f"`{name}` {' or '.join(map(str, of_failed[:3]))}")
    return f"; so is every example with {', '.join(found[:2])}, and no other" if found else ""


def _told(op: Op, example: Example, name: str) -> str | None:
    """A value in words; None where it is neither a tensor, a plain one nor a quantizer."""
    value = arguments_of(op, example)[name]
    if isinstance(value, BlockConfig):
        return type(value).__name__
    plain = value is None or isinstance(value, (bool, int, float, str))
    return "given" if isinstance(value, Tensor) else repr(value) if plain else None


def differentiable(op: Op, example: Example) -> list[str]:
    """Which argument each float tensor of the example is, in the order of `inputs_of`."""
    names = list(inspect.signature(op.reference).parameters)
    passed = [*zip(names, example.args, strict=False), *example.kwargs.items()]
    return [name for name, value in passed for tensor in tensors_of(value) if tensor.is_floating_point()]


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
