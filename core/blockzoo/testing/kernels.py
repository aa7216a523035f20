"""What a kernel owes: its op's reference on every example, forward and backward, and honest verdicts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blockzoo.kernels import PHASES, Call, Capabilities, Example, Op, ask
from blockzoo.testing import kernel_advice as advice
from blockzoo.testing.check import CheckFailed, CheckSkipped, error_of, need, quiet
from blockzoo.testing.kernel_subjects import FEW, KernelSubject
from blockzoo.testing.ops import in_float64, inputs_of, tensors_of

ELSEWHERE = (Capabilities("cpu", cpu="AVX512"), *(Capabilities("cuda", (major, 0)) for major in range(7, 13)))
"""What a kernel is asked about that serves nothing here."""
BACKWARD = 2e-5  # of the greatest gradient, float32
NOISE = 10
"""Times the reference's own error: of gradients whose terms cancel nearly whole both are chance."""


class OptionIgnored(CheckFailed):
    """Says which option a kernel ignores."""


def _need_equal(subject: KernelSubject, example: Example, dtype: torch.dtype, how: str = "") -> None:
    reference = functools.partial(reference_of, subject.op)
    with torch.no_grad():
        expected = reference(example)
        found = subject.run(example, f" in {dtype}{how}")
    where = f"'{example.name}' in {dtype}{how}"
    need(isinstance(found, Tensor), f"{where}: gives {type(found).__name__}, not a Tensor")
    need(found.dtype == expected.dtype, f"{where}: gives {found.dtype}, the reference {expected.dtype}")
    off, within = error_of(found, expected), example.within or subject.op.tolerances[dtype]
    with torch.no_grad():
        if off <= within or is_as_exact(subject, example, found, expected, within, reference):
            return
        plain = next(subject.examples(dtype))
        ignored = advice.ignored(subject.op, plain, example, lambda ours: error_of(found, ours()) <= within)
    whose = "the op's" if example.within is None else "this example's"
    raise (OptionIgnored if ignored else CheckFailed)(
        f"{where}: is {off:.1e} off the reference, {whose} tolerance is {within:.0e}"
        f"{ignored or advice.rounding(example, dtype, off, within)}"
    )


def reference_of(op: Op, example: Example) -> Tensor:
    return op.reference(*example.args, **example.kwargs)


def is_as_exact(
    subject: KernelSubject,
    example: Example,
    found: Tensor,
    expected: Tensor,
    within: float,
    reference: Callable[[Example], Tensor | None],
    times: float = 1,
) -> bool:
    """Whether a result is no further than the reference's, or than the tolerance, from what float64 gives of the same
    numbers: one that is rounded less often. Where an example shows the roundings themselves none is.

    ``times`` as far as the reference's, where that is chance.
    """
    if example.within is not None or torch.float64 not in subject.op.tolerances:
        return False
    exact = reference(in_float64(example))
    if exact is None or not found.isfinite().all():
        return False
    return error_of(found, exact) <= max(within, times * error_of(expected, exact))


def _try_each(subject: KernelSubject, examples: Sequence[Example], hold: Callable[[Example], None]) -> None:
    """Raises what the first example fails by, with the argument that sets apart those that do."""
    failures: dict[int, Exception] = {}
    for i, example in enumerate(examples):
        try:
            hold(example)
        except Exception as failure:
            failures[i] = failure
    for first in failures.values():
        if not isinstance(first, CheckFailed) or first.__cause__ is not None or isinstance(first, OptionIgnored):
            raise first
        failed = [example for i, example in enumerate(examples) if i in failures]
        passed = [example for i, example in enumerate(examples) if i not in failures]
        raise CheckFailed(f"{first}{advice.set_apart(subject.op, failed, passed)}")


def equals_reference(subject: KernelSubject) -> None:
    """On every example that it says yes to, in every dtype, it gives what the reference gives."""
    served = False
    for dtype in subject.op.tolerances:
        try:
            examples = subject.served(dtype)
        except CheckSkipped:
            continue
        served = True
        _try_each(subject, examples, functools.partial(_need_equal, subject, dtype=dtype))
    if not served:
        _nothing_served(subject)


def _nothing_served(subject: KernelSubject) -> None:
    """Never a yes is a fault, unless it waits for another device than this one."""
    reasons = "; ".join(dict.fromkeys(reason for dtype in subject.op.tolerances for reason in subject.refusals(dtype)))
    where = subject.device.type
    if any(_serves_on(subject, there) for there in ELSEWHERE if there.device != where):
        raise CheckSkipped(f"serves another device than {where}: {reasons}")
    need(
        False,
        f"says no to every example in every dtype, so nothing of it was checked: {reasons[:300]}; decide by the"
        f" capabilities that supports() is given, or check it where it can run",
    )


def _serves_on(subject: KernelSubject, there: Capabilities) -> bool:
    """Whether it says yes to some example on another device; nothing runs."""
    return any(
        ask(subject.kernel, there, Call(subject.op.name, phase, dtype, example.static)).ok
        for dtype in subject.op.tolerances
        for example in subject.examples(dtype)
        for phase in example.phases
    )


def strided_inputs(subject: KernelSubject) -> None:
    """Inputs that are not contiguous give the same."""
    for example in subject.served(torch.float32):
        _need_equal(subject, replace(example, args=_strided(example.args)), torch.float32, ", not contiguous")


def _strided(value: Any) -> Any:
    """The same numbers, every second one of a tensor twice as wide."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.stack([value, torch.full_like(value, float("nan"))], dim=-1)[..., 0]
    if isinstance(value, Mapping):
        return {name: _strided(inner) for name, inner in value.items()}
    if type(value) is tuple:  # Keys and its like are tuples too
        return tuple(_strided(inner) for inner in value)
    return value


def leaves_inputs_alone(subject: KernelSubject) -> None:
    """No input is written to."""
    for example in subject.served(torch.float32):
        before = [tensor.clone() for tensor in inputs_of(example)]
        with torch.no_grad():
            subject.run(example)
        same = all(torch.equal(a, b) for a, b in zip(before, inputs_of(example), strict=True))
        need(same, f"'{example.name}': changes an input in place")


def backward(subject: KernelSubject) -> None:
    """Its gradients are the reference's."""
    if not subject.kernel.backward:
        raise CheckSkipped("declares backward = False")
    _try_each(subject, subject.served(torch.float32, ("train",)), lambda e: _need_equal_gradients(subject, e))


def _need_equal_gradients(subject: KernelSubject, example: Example) -> None:
    reference = functools.partial(reference_of, subject.op)
    pairs = zip(_gradients(reference, example), _gradients(subject.run, example), strict=True)
    names = advice.differentiable(subject.op, example)
    for place, (name, (expected, found)) in enumerate(zip(names, pairs, strict=True)):
        if expected is None or not bool(expected.abs().max() > 0):
            continue
        if found is None:
            raise CheckFailed(f"'{example.name}': `{name}` gets no gradient, and the reference has one for it")
        error, exact = error_of(found, expected), functools.partial(_gradient_at, place, reference)
        need(
            error < BACKWARD or is_as_exact(subject, example, found, expected, BACKWARD, exact, NOISE),
            f"'{example.name}': the gradient of `{name}` is {error:.1e} off the reference's, at most {BACKWARD:.0e}",
        )


def _gradient_at(place: int, function: Callable[[Example], Tensor], example: Example) -> Tensor | None:
    return _gradients(function, example)[place]


def _gradients(function: Callable[[Example], Tensor], example: Example) -> Sequence[Tensor | None]:
    """Of one number made of the output, by each tensor that the example brings."""
    leaves = [tensor.requires_grad_() for tensor in inputs_of(example) if tensor.is_floating_point()]
    y = function(example)
    need(y.requires_grad, f"'{example.name}': the output has no gradient, though backward = True")
    weight = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
    return torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)


def verdicts(subject: KernelSubject) -> None:
    """supports() answers every example with a Verdict, and a no with its reason, the same each time."""
    for dtype in (*subject.op.tolerances, torch.int8):
        for example in subject.examples(dtype if dtype in subject.op.tolerances else torch.float32):
            for phase in PHASES:
                verdict = subject.verdict(example, dtype, phase)
                where = f"'{example.name}', {phase}, {dtype}"
                need(verdict.ok or verdict.reason.strip(), f"{where}: says no without a reason")
                need(verdict == subject.verdict(example, dtype, phase), f"{where}: answers differently the second time")
    example = next(subject.examples(torch.float32))
    verdict = subject.verdict(example, torch.float32, "decode", Capabilities("nowhere"))
    need(verdict.ok or verdict.reason.strip(), "says no to an unknown device without a reason")


def compiles(subject: KernelSubject) -> None:
    """torch.compile takes it whole (fullgraph), where it declares compile_safe."""
    if not subject.kernel.compile_safe:
        raise CheckSkipped("declares compile_safe = False")
    for example in subject.served(torch.float32)[:FEW]:
        torch.compiler.reset()
        with subject.keeping_its_yes(example):
            args = subject.arguments(example)
        compiled = torch.compile(subject.kernel.function, backend="eager", fullgraph=True)
        with torch.no_grad():
            expected = subject.op.reference(*example.args, **example.kwargs)
            try:
                with quiet():
                    found = compiled(*args, **example.kwargs)
            except Exception as error:
                text = " ".join(str(error).split())[:200]
                raise CheckFailed(
                    f"'{example.name}': compile_safe = True, but torch.compile breaks: {text}{advice.packed(example)}"
                ) from error
        need(
            error_of(found, expected) <= subject.op.tolerances[torch.float32],
            f"'{example.name}': compiled, it is off the reference",
        )


def layout_round_trip(subject: KernelSubject) -> None:
    """Its layout gives back the same bytes: unpack(prepack(w)) is w."""
    layout = subject.kernel.layout
    if layout is None:
        raise CheckSkipped("reads the canonical layout")
    for example in subject.served(torch.float32):
        weight = example.args[0]
        with subject.keeping_its_yes(example):
            again = layout.unpack(layout.prepack(weight))
        need(again.keys() == weight.keys(), f"'{example.name}': unpack gives {sorted(again)}, not {sorted(weight)}")
        for name, tensor in weight.items():
            found = again[name].shape == tensor.shape and again[name].dtype == tensor.dtype
            same = found and all(
                torch.equal(a, b) for a, b in zip(tensors_of(again[name]), tensors_of(tensor), strict=True)
            )
            need(same, f"'{example.name}': '{name}' does not come back from the layout '{layout.name}'")


def examples_tried(subject: KernelSubject) -> None:
    """Told, never a failure: how few of the examples a kernel that builds itself is tried on."""
    if not subject.kernel.builds_itself:
        return
    dtype = next((d for d in subject.op.tolerances if subject.yeses(d)), None)
    if dtype is not None:
        few, all_of_them = len(subject.served(dtype)), len(subject.yeses(dtype))
        raise CheckSkipped(
            f"tried on {few} of {all_of_them} examples in {dtype}, as it declares builds_itself: that is for code"
            " compiled anew for each shape (Triton), not for a library that is built once"
        )


CHECKS = (
    equals_reference,
    strided_inputs,
    leaves_inputs_alone,
    backward,
    verdicts,
    compiles,
    layout_round_trip,
    examples_tried,
)
