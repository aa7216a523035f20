"""What a kernel owes: its op's reference on every example, forward and backward, and honest verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import PHASES, Call, Capabilities, Example, Kernel, Op, Verdict, ask
from blockzoo.registry import Registry
from blockzoo.step import Phase
from blockzoo.testing import kernel_advice as advice
from blockzoo.testing.check import CheckFailed, CheckSkipped, error_of, need, quiet
from blockzoo.testing.ops import inputs_of, tensors_of

ELSEWHERE = (Capabilities("cpu", cpu="AVX512"), *(Capabilities("cuda", (major, 0)) for major in range(7, 13)))
"""What a kernel is asked about that serves nothing here."""
BACKWARD = 2e-5  # of the greatest gradient, float32
FEW = 2  # examples of a kernel that builds itself for each shape


@dataclass(frozen=True)
class KernelSubject:
    """A kernel on one kind of device; ``quantizers`` give examples of packed weights to ops that take them; ``ops``:
    all that are registered.
    """

    kernel: Kernel
    op: Op
    device: torch.device
    quantizers: tuple[QuantizerConfig, ...]
    ops: Mapping[str, Op]

    @property
    def label(self) -> str:
        return f"{self.kernel.name} on {self.device.type} for `{self.op.name}`"

    def verdict(self, example: Example, dtype: torch.dtype, phase: Phase) -> Verdict:
        call = Call(self.op.name, phase, dtype, example.static)
        try:
            return self.kernel.supports(Capabilities.of(self.device), call)
        except KeyError as error:
            if not isinstance(error.args[0], str):  # it looks something else up
                raise
            raise CheckFailed(
                f"supports() asks for static {error} of '{example.name}', which says nothing of it"
                f"{advice.missing_static(error.args[0], self.op, self.ops)}"
            ) from error

    def examples(self, dtype: torch.dtype) -> Iterator[Example]:
        for example in self.op.examples(dtype, self.device):
            yield example
            yield from self._packed(example)

    def served(self, dtype: torch.dtype, phases: Sequence[Phase] = PHASES) -> list[Example]:
        """The examples that it says yes to in one of these phases. Skips where there is none."""
        found = []
        for example in self.examples(dtype):
            if any(self.verdict(example, dtype, phase).ok for phase in phases if phase in example.phases):
                found.append(example)
        if not found:
            reasons = "; ".join(self.refusals(dtype, phases))
            raise CheckSkipped(f"says no to every example in {dtype} on {self.device.type}: {reasons}")
        return found[:: max(1, len(found) // FEW)][:FEW] if self.kernel.builds_itself else found

    def refusals(self, dtype: torch.dtype, phases: Sequence[Phase] = PHASES) -> list[str]:
        """The distinct reasons of its noes to examples."""
        said = [self.verdict(e, dtype, p) for e in self.examples(dtype) for p in phases if p in e.phases]
        return list(dict.fromkeys(verdict.reason for verdict in said if not verdict.ok))

    def arguments(self, example: Example) -> tuple[Any, ...]:
        """A weight goes in as the kernel's layout has it."""
        layout, args = self.kernel.layout, example.args
        return args if layout is None else (layout.prepack(args[0]), *args[1:])

    def run(self, example: Example, how: str = "") -> Tensor:
        """The kernel on an example that it says yes to; ``how`` the example is given, for the message of a failure."""
        if self.kernel.builds_itself:
            torch.compiler.reset()  # each example is another shape
        with self.keeping_its_yes(example, how):
            return self.kernel.function(*self.arguments(example), **example.kwargs)

    @contextmanager
    def keeping_its_yes(self, example: Example, how: str = "") -> Iterator[None]:
        """What goes wrong after a yes is the fault of the yes, or of a function that can't be called so."""
        try:
            yield
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raised = f"'{example.name}'{how}: supports() says yes, but it raises {text}"
            misfit = advice.misfit(self.kernel, self.op, self.ops, example)
            raise CheckFailed(f"{raised}; {misfit}" if misfit else raised + advice.packed(example)) from error

    def _packed(self, example: Example) -> Iterator[Example]:
        """The same with a packed weight, where the op takes one."""
        if "quantizer" not in example.kwargs:
            return
        weight = example.args[0]["weight"]
        for quantizer in self.quantizers:
            if quantizer.refuses(tuple(weight.shape)) is None:
                yield replace(
                    example,
                    name=f"{example.name}, {type(quantizer).__name__}",
                    args=(quantizer.pack(weight), *example.args[1:]),
                    kwargs={**example.kwargs, "quantizer": quantizer},
                    static={**example.static, "quantizer": quantizer},
                )


def subjects_of(op: str, kernel: Kernel, registry: Registry) -> Sequence[KernelSubject]:
    known = registry.ops()
    need(op in known, f"kernel '{kernel.name}' is for op '{op}', which nobody registers")
    configs: list[type[QuantizerConfig]] = [registry.get("quantizer", name) for name in registry.names("quantizer")]
    quantizers = tuple(sample for config in configs for sample in config.samples())
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    return [KernelSubject(kernel, known[op], torch.device(device), quantizers, known) for device in devices]


def _ignored(subject: KernelSubject, example: Example, dtype: torch.dtype) -> str:
    return advice.ignored(subject.op, next(subject.examples(dtype)), example)


def _need_equal(subject: KernelSubject, example: Example, dtype: torch.dtype, how: str = "") -> None:
    with torch.no_grad():
        expected = subject.op.reference(*example.args, **example.kwargs)
        found = subject.run(example, f" in {dtype}{how}")
    where = f"'{example.name}' in {dtype}{how}"
    need(found.dtype == expected.dtype, f"{where}: gives {found.dtype}, the reference {expected.dtype}")
    off, within = error_of(found, expected), subject.op.tolerances[dtype]
    fault = f"{where}: is {off:.1e} off the reference, the op's tolerance is {within:.0e}"
    need(off <= within, f"{fault}{_ignored(subject, example, dtype)}")


def equals_reference(subject: KernelSubject) -> None:
    """On every example that it says yes to, in every dtype, it gives what the reference gives."""
    served = False
    for dtype in subject.op.tolerances:
        try:
            examples = subject.served(dtype)
        except CheckSkipped:
            continue
        served = True
        for example in examples:
            _need_equal(subject, example, dtype)
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
    for example in subject.served(torch.float32, ("train",)):
        grads = []
        for function in (lambda e: subject.op.reference(*e.args, **e.kwargs), subject.run):
            leaves = [tensor.requires_grad_() for tensor in inputs_of(example) if tensor.is_floating_point()]
            y = function(example)
            need(y.requires_grad, f"'{example.name}': the output has no gradient, though backward = True")
            weight = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
            grads.append(torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True))
        for expected, found in zip(*grads, strict=True):
            if expected is None or not bool(expected.abs().max() > 0):
                continue
            need(found is not None, f"'{example.name}': an input that the reference has a gradient for gets none")
            error = error_of(found, expected)
            need(
                error < BACKWARD,
                f"'{example.name}': a gradient is {error:.1e} off the reference's, at most {BACKWARD:.0e}"
                f"{_ignored(subject, example, torch.float32)}",
            )


def verdicts(subject: KernelSubject) -> None:
    """supports() answers every example with a Verdict, and a no with its reason, the same each time."""
    for dtype in (*subject.op.tolerances, torch.int8):
        for example in subject.examples(dtype if dtype in subject.op.tolerances else torch.float32):
            for phase in PHASES:
                verdict = subject.verdict(example, dtype, phase)
                where = f"'{example.name}', {phase}, {dtype}"
                need(isinstance(verdict, Verdict), f"{where}: supports() gives {verdict!r}, not a Verdict")
                need(verdict.ok or verdict.reason.strip(), f"{where}: says no without a reason")
                need(verdict == subject.verdict(example, dtype, phase), f"{where}: answers differently the second time")
    elsewhere = Capabilities("nowhere")
    example = next(subject.examples(torch.float32))
    verdict = subject.kernel.supports(elsewhere, Call(subject.op.name, "decode", torch.float32, example.static))
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
                text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:160]
                need(
                    False,
                    f"'{example.name}': compile_safe = True, but torch.compile breaks: {text}{advice.packed(example)}",
                )
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


CHECKS = (
    equals_reference,
    strided_inputs,
    leaves_inputs_alone,
    backward,
    verdicts,
    compiles,
    layout_round_trip,
)
