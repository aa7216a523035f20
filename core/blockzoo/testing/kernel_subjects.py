"""A kernel on its op, on one kind of device: what it is asked, what it runs on, and what it says wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.errors import nearest
from blockzoo.kernels import PHASES, Call, Capabilities, Example, Kernel, Op, Verdict
from blockzoo.registry import Registry
from blockzoo.step import Phase
from blockzoo.testing import kernel_advice as advice
from blockzoo.testing.check import CheckFailed, CheckSkipped, need, one_line
from blockzoo.testing.ops import inputs_of

FEW = 2  # examples of a kernel that builds itself for each shape, beside a ragged one
WHOLE = 8  # numbers that code takes at once, or a multiple: what is left of a row, its last few lines compute


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

    def verdict(
        self, example: Example, dtype: torch.dtype, phase: Phase, capabilities: Capabilities | None = None
    ) -> Verdict:
        """What supports() says, here or of other ``capabilities``. Raises CheckFailed where that is no Verdict."""
        call = Call(self.op.name, phase, dtype, example.static)
        try:
            verdict = self.kernel.supports(capabilities or Capabilities.of(self.device), call)
        except KeyError as error:
            if not isinstance(error.args[0], str):  # it looks something else up
                raise
            raise CheckFailed(
                f"supports() asks for static {error} of '{example.name}', which says nothing of it"
                f"{advice.missing_static(error.args[0], self.op, self.ops)}"
            ) from error
        where = f"'{example.name}', {phase}, {dtype}"
        need(isinstance(verdict, Verdict), f"{where}: supports() gives {verdict!r}, not a Verdict: YES, or no('why')")
        return verdict

    def examples(self, dtype: torch.dtype) -> Iterator[Example]:
        for example in self.op.examples(dtype, self.device):
            yield example
            yield from self._packed(example)

    def served(self, dtype: torch.dtype, phases: Sequence[Phase] = PHASES) -> list[Example]:
        """The examples that it is tried on: those that it says yes to in one of these phases, or a few of them. Skips
        where there is none.
        """
        found = self.yeses(dtype, phases)
        if not found:
            reasons = "; ".join(self.refusals(dtype, phases))
            raise CheckSkipped(f"says no to every example in {dtype} on {self.device.type}: {reasons}")
        return _few(found) if self.kernel.builds_itself else found

    def yeses(self, dtype: torch.dtype, phases: Sequence[Phase] = PHASES) -> list[Example]:
        return [
            example
            for example in self.examples(dtype)
            if any(self.verdict(example, dtype, phase).ok for phase in phases if phase in example.phases)
        ]

    def refusals(self, dtype: torch.dtype, phases: Sequence[Phase] = PHASES) -> list[str]:
        """The distinct reasons of its noes to examples."""
        said = [self.verdict(e, dtype, p) for e in self.examples(dtype) for p in phases if p in e.phases]
        return list(dict.fromkeys(verdict.reason for verdict in said if not verdict.ok))

    def arguments(self, example: Example) -> tuple[Any, ...]:
        """A weight goes in as the kernel's layout has it."""
        layout, args = self.kernel.layout, example.args
        return args if layout is None else (layout.prepack(args[0]), *args[1:])

    def run(self, example: Example, how: str = "", anew: bool = True) -> Tensor:
        """The kernel on an example that it says yes to; ``how`` the example is given, for the message of a failure;
        ``anew``: one of other shapes than it was given last.
        """
        if self.kernel.builds_itself and anew:
            torch.compiler.reset()
        with self.keeping_its_yes(example, how):
            return self.kernel.function(*self.arguments(example), **example.kwargs)

    @contextmanager
    def keeping_its_yes(self, example: Example, how: str = "") -> Iterator[None]:
        """What goes wrong after a yes is the fault of the yes, or of a function that can't be called so."""
        try:
            yield
        except Exception as error:
            raised = f"'{example.name}'{how}: supports() says yes, but it raises {one_line(error)}"
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


def _few(examples: Sequence[Example]) -> list[Example]:
    """Some of them, one at least with several rows of no round width, where there is any."""
    few = list(examples[:: max(1, len(examples) // FEW)][:FEW])
    return few if any(map(_is_ragged, few)) else [*few, *[e for e in examples if _is_ragged(e)][:1]]


def _is_ragged(example: Example) -> bool:
    rows = [tensor for tensor in inputs_of(example) if tensor.is_floating_point() and tensor.dim() > 1]
    return any(tensor.shape[-1] % WHOLE and tensor.numel() > tensor.shape[-1] > WHOLE for tensor in rows)


def subjects_of(op: str, kernel: Kernel, registry: Registry) -> Sequence[KernelSubject]:
    known = registry.ops()
    need(op in known, f"kernel '{kernel.name}' is for op '{op}', which nobody registers{nearest(op, known)}")
    configs: list[type[QuantizerConfig]] = [registry.get("quantizer", name) for name in registry.names("quantizer")]
    quantizers = tuple(sample for config in configs for sample in config.samples())
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    return [KernelSubject(kernel, known[op], torch.device(device), quantizers, known) for device in devices]
