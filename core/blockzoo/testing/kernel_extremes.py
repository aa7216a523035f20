"""What a kernel owes beyond its op's examples: the same on inputs as large as activations get, and on a NaN."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from blockzoo.kernels import Example, Op
from blockzoo.testing.check import CheckSkipped, need
from blockzoo.testing.kernel_advice import arguments_of
from blockzoo.testing.kernel_subjects import KernelSubject
from blockzoo.testing.kernels import NOISE, is_as_exact, reference_of

LARGE = 1e4
"""The greatest number of an input: trained models have activations of that size."""
STEPS = 10
"""How far a result may be off, over the greatest: so many steps of a number of 1e4, for so is an exponential of one."""
COARSE = 0.5
"""At most: bfloat16's steps there are 64. What saturates or overflows is further off."""
BESIDE = (1.0, -1.0)
"""What stands in a NaN's place to see which outputs follow from it."""
ROUNDING = 0.02
"""By how much an output may move though it doesn't follow: a factor that cancels, in bfloat16."""
PLACES = (0.5, 1.0)
"""Of NaN: in the midst, and at the end, which other code may compute."""
FEW = 2
"""Outputs that follow from one number where an op works number by number, or on pairs."""


def extremes(subject: KernelSubject) -> None:
    """Of inputs up to 1e4 it gives what the reference gives, where that is finite; a NaN isn't made a number."""
    tried = 0
    for dtype in subject.op.tolerances:
        try:
            examples = subject.served(dtype)
        except CheckSkipped:
            continue
        for example in examples:
            with torch.no_grad():
                if reference_of(subject.op, example).is_floating_point():
                    _try(subject, replace(example, within=None), dtype)
                    tried += 1
    if not tried:
        raise CheckSkipped("serves nothing here that gives floats")


def _try(subject: KernelSubject, example: Example, dtype: torch.dtype) -> None:
    subject.run(example)  # built for its shapes
    for name, value in arguments_of(subject.op, example).items():
        if _is_input(value):
            where = f"'{example.name}' in {dtype}, `{name}`"
            _need_large(subject, example, name, value, where)
            _need_nan(subject, example, name, value, where)


def _is_input(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor with numbers in it. Weights are in mappings, and stay as they are."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return False
    return 0 < float(value.abs().max()) < float("inf")


def _need_large(subject: KernelSubject, example: Example, name: str, value: Tensor, where: str) -> None:
    """With signs as they are, and all of one: each is judged by the greatest value that any of them gives, as a gate
    that is shut gives next to nothing.
    """
    wide = value.double()
    large = (wide / wide.abs().max() * LARGE).to(value.dtype)
    signs = {"": large, ", all positive": large.abs(), ", all negative": -large.abs()}
    tried = {sign: _with(subject.op, example, name, changed) for sign, changed in signs.items()}
    expected = {sign: reference_of(subject.op, changed) for sign, changed in tried.items()}
    told = {sign: y.abs() < torch.finfo(y.dtype).max / 2 for sign, y in expected.items()}  # others may round to inf
    greatest = max((float(y[told[sign]].abs().max()) for sign, y in expected.items() if told[sign].any()), default=0.0)
    for sign, changed in tried.items():
        found = subject.run(changed, anew=False)
        of_size = f"{where} up to {LARGE:g}{sign}"
        need(found.shape == expected[sign].shape, f"{of_size}: gives another shape")
        _need_close(subject, changed, found, expected[sign], told[sign], greatest, of_size)


def _need_close(
    subject: KernelSubject,
    example: Example,
    found: Tensor,
    expected: Tensor,
    told: Tensor,
    greatest: float,
    where: str,
) -> None:
    """``told``: which values are judged; ``greatest``: by what."""
    found, expected = found[told], expected[told]
    wrong = ~found.isfinite()
    need(
        not wrong.any(),
        f"{where}: gives {_first(found, wrong)} where the reference gives {_first(expected, wrong)}: keep exponentials,"
        " squares and sums in range",
    )
    if not len(found):
        return
    within = min(COARSE, STEPS * LARGE * torch.finfo(expected.dtype).eps)
    off = float((found.double() - expected.double()).abs().max()) / (greatest or 1.0)
    need(
        off <= within
        or is_as_exact(subject, example, found, expected, within, lambda e: reference_of(subject.op, e)[told], NOISE),
        f"{where}: is {off:.1e} of the greatest value off the reference, at most {within:.0e}: does a number saturate?",
    )


def _with(op: Op, example: Example, name: str, value: Any) -> Example:
    """The example with another value of one argument."""
    if name in example.kwargs:
        return replace(example, kwargs={**example.kwargs, name: value})
    place = list(inspect.signature(op.reference).parameters).index(name)
    return replace(example, args=(*example.args[:place], value, *example.args[place + 1 :]))


def _need_nan(subject: KernelSubject, example: Example, name: str, value: Tensor, where: str) -> None:
    """Where an op works number by number, a NaN stays one in each output that follows from its place, so that who looks
    at the result or a loss sees it. (A softmax of nothing but NaN PyTorch's own attention takes for one of nothing.)
    """

    def at_places(number: float) -> Example:
        changed = value.clone().contiguous()
        for place in PLACES:
            changed.view(-1)[int(place * (value.numel() - 1))] = number
        return _with(subject.op, example, name, changed)

    one, other = (reference_of(subject.op, at_places(number)) for number in BESIDE)
    wrong = at_places(float("nan"))
    moved = (one - other).abs() > ROUNDING * torch.maximum(one.abs(), other.abs())
    follows = reference_of(subject.op, wrong).isnan() & moved
    if follows.sum() > FEW * len(PLACES):
        return
    found = subject.run(wrong, anew=False)
    lost = follows & ~found.isnan()
    need(
        not lost.any(),
        f"{where}: makes {_first(found, lost)} of a NaN, and the reference NaN: fminf, fmaxf and comparisons drop it",
    )


def _first(values: Tensor, where: Tensor) -> str:
    return f"{float(values[where][0]):g}" if where.any() else ""


CHECKS = (extremes,)
