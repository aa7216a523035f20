"""What an op owes: a reference that runs on all of its examples, and examples worth running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blockzoo.kernels import Example, Op
from blockzoo.testing.check import need
from blockzoo.testing.statics import disagreement

CPU = torch.device("cpu")


@dataclass(frozen=True)
class OpSubject:
    op: Op

    @property
    def label(self) -> str:
        return self.op.name


def subjects_of(op: Op) -> Sequence[OpSubject]:
    return [OpSubject(op)]


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor among an example's arguments, those inside mappings and tuples too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_of(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from tensors_of(inner)


def inputs_of(example: Example) -> list[Tensor]:
    return [*tensors_of(example.args), *tensors_of(example.kwargs)]


def in_float64(example: Example) -> Example:
    """The same numbers, wider. Packed weights stay as they are: their numbers are in no dtype but the quantizer's."""
    packed = example.kwargs.get("quantizer") is not None
    args = (*example.args[:1], *_wide(example.args[1:])) if packed else _wide(example.args)
    return replace(example, args=args, kwargs=_wide(example.kwargs))


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    if isinstance(value, Mapping):
        return {name: _wide(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        inner = map(_wide, value)
        return tuple(inner) if type(value) is tuple else type(value)(*inner)  # Keys and its like are tuples too
    return value


def tolerances(subject: OpSubject) -> None:
    """It has tolerances for float32 and bfloat16 at least, between 0 and 10%."""
    op = subject.op
    need(op.tolerances.keys() >= {torch.float32, torch.bfloat16}, "lacks a tolerance for float32 or bfloat16")
    for dtype, within in op.tolerances.items():
        need(0 < within < 0.1, f"the tolerance for {dtype} is {within:g}")


def examples(subject: OpSubject) -> None:
    """Its examples are several, repeatable, named, of the dtype asked for, as statics say, and run."""
    op = subject.op
    first, second = list(op.examples(torch.float32, CPU)), list(op.examples(torch.float32, CPU))
    names = [example.name for example in first]
    need(len(first) >= 3, f"has {len(first)} examples: give edge shapes too")
    need(len(set(names)) == len(names), "two examples share a name")
    for one, other in zip(first, second, strict=True):
        pairs = zip(inputs_of(one), inputs_of(other), strict=True)
        need(all(torch.equal(a, b) for a, b in pairs), f"'{one.name}' is drawn differently each time: seed a generator")
    for dtype in op.tolerances:
        for example in op.examples(dtype, CPU):
            problem = disagreement(op, example.static, example.args, example.kwargs)
            need(problem is None, f"'{example.name}': {problem}: say in Example(static=...) what it passes")
            with torch.no_grad():
                y = op.reference(*example.args, **example.kwargs)
            narrower = y.is_floating_point() and torch.promote_types(y.dtype, dtype) != y.dtype
            need(
                not narrower and bool(y.isfinite().all()),
                f"'{example.name}' in {dtype} gives {y.dtype} or is not finite",
            )


def pure(subject: OpSubject) -> None:
    """The reference changes none of its inputs and gives the same again."""
    op = subject.op
    for example in op.examples(torch.float32, CPU):
        before = [tensor.clone() for tensor in inputs_of(example)]
        with torch.no_grad():
            outputs = [op.reference(*example.args, **example.kwargs) for _ in range(2)]
        need(torch.equal(*outputs), f"'{example.name}': the second call gives another output")
        same = all(torch.equal(a, b) for a, b in zip(before, inputs_of(example), strict=True))
        need(same, f"'{example.name}': the reference changes an input")


CHECKS = (tolerances, examples, pure)
