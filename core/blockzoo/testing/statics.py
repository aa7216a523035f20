"""What a block's slots tell kernels beforehand against what its calls then pass."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blockzoo.blocks import BlockConfig
from blockzoo.kernels import PHASES, Op, Slot
from blockzoo.step import Phase
from blockzoo.testing.check import CheckSkipped, need
from blockzoo.testing.inputs import LENGTH, inputs, step_of
from blockzoo.testing.subjects import BlockSubject


def statics(subject: BlockSubject) -> None:
    """What its slots tell kernels beforehand is what its calls then pass: supports() decides by it."""
    module = subject.build()
    slots = {name: inner for name, inner in module.named_modules() if isinstance(inner, Slot)}
    if not slots:
        raise CheckSkipped("uses no op through a Slot")
    for name, slot in slots.items():
        slot.bound = {phase: _held_to_its_word(name, slot, phase) for phase in PHASES}
    for phase in PHASES:
        length = 1 if phase == "decode" else LENGTH
        with torch.set_grad_enabled(phase == "train"):
            subject.call(
                module.train(phase == "train"), inputs(length=length), replace(step_of(length=length), phase=phase)
            )


def _held_to_its_word(name: str, slot: Slot, phase: Phase) -> Callable[..., Tensor]:
    """What the slot has for a phase, behind a comparison of each call with what the slot says."""
    function = slot.bound[phase]

    def compared(*args: Any, **kwargs: Any) -> Tensor:
        problem = disagreement(slot.op, slot.static, args, kwargs, may_leave_out=phase != "train")
        need(
            problem is None,
            f"'{name}' in {phase}: {problem}: call and Slot say the same; change the one that is wrong",
        )
        return function(*args, **kwargs)

    return compared


def disagreement(
    op: Op, static: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any], may_leave_out: bool = False
) -> str | None:
    """The first static that isn't what a call passes, in words; None where all are.

    A static that isn't given stands for the argument's default, or for none. ``may_leave_out``: inference leaves out
    what only training does (dropout).
    """
    call = inspect.signature(op.reference).bind(*args, **kwargs)
    call.apply_defaults()
    passed = {**call.arguments, **kwargs, **(op.facts(*args, **kwargs) if op.facts else {})}
    for name in sorted((op.static or static.keys()) & passed.keys()):
        found = _fact(passed[name])
        if found or not may_leave_out:
            parameter = call.signature.parameters.get(name)
            default = None if parameter is None or parameter.default is parameter.empty else parameter.default
            if not _same(found, static.get(name, default)):
                said = f"say {name}={static[name]!r}" if name in static else f"say nothing of {name}"
                return f"the statics {said}, the call of op '{op.name}' has {found!r}"
    return None


def _fact(value: Any) -> Any:
    """An argument as a static says it: that there is a tensor, the class of a config."""
    if isinstance(value, Tensor):
        return True
    return type(value).__name__ if isinstance(value, BlockConfig) else value


def _same(found: Any, said: Any) -> bool:
    """Equal, or both nothing; a float may be computed in another order."""
    if isinstance(found, float) and isinstance(said, (float, int)):
        return math.isclose(found, said, rel_tol=1e-6)
    return found == said or not (found or said)


CHECKS = (statics,)
