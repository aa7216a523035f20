"""Ops, kernels, weight layouts, and which kernel runs where.

An op is a pure function with a plain-PyTorch reference, which is its definition. A kernel is another implementation.
A block's module holds a ``Slot`` for each op it uses; ``bind`` fills the slots once a model stands on its device:
first one layout for each weight, then a kernel for each slot and phase among those that read that layout. ``forward``
picks the phase's entry of the slot and never an implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blockzoo.errors import KernelError, nearest
from blockzoo.step import PHASES, Phase

# --- what is declared ---


@dataclass(frozen=True)
class Example:
    """One input to try a kernel on: a name for messages, positional and keyword arguments of the op.

    ``static``: what a block's slot would say of such a call beforehand. ``phases``: those in which it occurs.
    ``within``: a tolerance of its own, below the op's, where its numbers are chosen so that one rounding shows.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    static: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...] = PHASES
    within: float | None = None


@dataclass(frozen=True)
class Op:
    """A pure function. ``reference`` defines it; a kernel must agree within ``tolerances`` on every example.

    ``tolerances``: dtype -> greatest error over greatest value. ``static`` names what a slot may tell kernels
    beforehand; empty means anything. One of an argument's name is what calls pass for it (of a tensor: whether there is
    one); ``facts`` of a call's arguments gives the others. ``examples(dtype, device)`` draws inputs, edge shapes
    included.
    """

    name: str
    reference: Callable[..., Tensor]
    examples: Callable[[torch.dtype, torch.device], Iterator[Example]]
    tolerances: Mapping[torch.dtype, float]
    static: frozenset[str] = frozenset()
    facts: Callable[..., Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Layout:
    """Another arrangement of a weight's bytes. ``unpack(prepack(w))`` gives back the same bytes.

    Both map named tensors (``{"weight": ...}``, or a quantizer's packed tensors) to named tensors.
    """

    name: str
    prepack: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    unpack: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class Verdict(NamedTuple):
    """Whether a kernel can serve a call; a no carries its reason."""

    ok: bool
    reason: str = ""


YES = Verdict(True)


def no(reason: str) -> Verdict:
    """A refusal; the reason is for people."""
    return Verdict(False, reason)


@dataclass(frozen=True)
class Capabilities:
    """What the device can do, as far as kernels ask."""

    device: str  # "cpu", "cuda", ...
    compute_capability: tuple[int, int] | None = None
    cpu: str = ""  # torch's name for the instruction set: "AVX512", "AVX2", "DEFAULT"

    @classmethod
    def of(cls, device: torch.device) -> Capabilities:
        if device.type == "cuda":
            return cls("cuda", torch.cuda.get_device_capability(device))
        return cls(device.type, cpu=torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else "")


@dataclass(frozen=True)
class Call:
    """What is known about a slot before it runs: nothing here depends on the tokens."""

    op: str
    phase: Phase
    dtype: torch.dtype
    static: Mapping[str, Any]


@dataclass(frozen=True)
class Kernel:
    """An implementation of an op. Of those that can serve a call the highest ``priority`` wins; the reference has 0,
    and one below that serves only where it is asked for by name.

    ``backward``: gradients flow through it, so it may serve the train phase. ``layout``: the weight layout that it
    reads, None for the canonical one; the function then takes the layout's tensors in place of the weight's.
    ``builds_itself``: it is compiled anew for each shape or option, so the conformance suite tries few; a library
    that is built once, at its first call, does not say so.
    """

    name: str
    function: Callable[..., Tensor]
    supports: Callable[[Capabilities, Call], Verdict]
    backward: bool = False
    compile_safe: bool = False
    priority: int = 10
    layout: Layout | None = None
    builds_itself: bool = False


REFERENCE = "reference"

# --- slots ---


class Slot(nn.Module):
    """An op as one module uses it: ``slot[phase](...)``. Unbound, every phase runs the reference."""

    def __init__(self, op: Op, **static: Any) -> None:
        super().__init__()
        for name in static if op.static else ():
            if name not in op.static:
                raise TypeError(f"op {op.name} has no static '{name}'{nearest(name, op.static)}")
        self.op = op
        self.static = static
        self.bound: dict[Phase, Callable[..., Tensor]] = dict.fromkeys(PHASES, op.reference)
        self.chosen: dict[Phase, str] = dict.fromkeys(PHASES, REFERENCE)

    def __getitem__(self, phase: Phase) -> Callable[..., Tensor]:
        return self.bound[phase]

    def extra_repr(self) -> str:
        names = ", ".join(f"{phase}={name}" for phase, name in self.chosen.items())
        return f"{self.op.name}: {names}"


class WeightSlot(Slot):
    """A slot whose first operand is a weight of the module that holds it, in whatever layout was chosen for it."""

    layout: Layout | None = None


# --- binding ---


@dataclass(frozen=True)
class Binding:
    """One line of ``blockzoo kernels``: where, what won, and why the others lost."""

    place: str
    op: str
    phase: Phase
    kernel: str
    lost: tuple[tuple[str, str], ...]


def bind(
    model: nn.Module,
    kernels: Mapping[str, Sequence[Kernel]],
    *,
    device: torch.device,
    choose: Mapping[str, str] | None = None,
) -> list[Binding]:
    """Choose a layout for each weight and a kernel for each slot and phase; returns what was chosen and why.

    ``choose`` names a kernel for an op; a slot or phase that it refuses goes to the best other one. Raises KernelError,
    with the reasons, where it refuses every phase of every slot.
    """
    choose = dict(choose or {})
    slots = {name: module for name, module in model.named_modules() if isinstance(module, Slot)}
    _check_choices(choose, kernels, {slot.op.name for slot in slots.values()})
    capabilities = Capabilities.of(device)
    verdicts = {name: _verdicts(model, name, slot, kernels, capabilities) for name, slot in slots.items()}
    for op, kernel in choose.items():
        if kernel != REFERENCE:
            _need_served(op, kernel, {name: verdicts[name] for name, slot in slots.items() if slot.op.name == op})
    return [
        line
        for name, slot in slots.items()
        for line in _bind_slot(model, name, slot, kernels.get(slot.op.name, ()), verdicts[name], choose)
    ]


def _check_choices(choose: Mapping[str, str], kernels: Mapping[str, Sequence[Kernel]], used: set[str]) -> None:
    for op, name in choose.items():
        if op not in used:
            hint = "" if op in kernels else nearest(op, used)
            raise KernelError(f"kernels.{op}: the model uses no op of that name{hint}")
        known = [REFERENCE, *(kernel.name for kernel in kernels.get(op, ()))]
        if name not in known:
            raise KernelError(f"kernels.{op}: no kernel '{name}'{nearest(name, known)}")


Verdicts = Mapping[tuple[str, Phase], Verdict]


def _verdicts(
    model: nn.Module, name: str, slot: Slot, kernels: Mapping[str, Sequence[Kernel]], capabilities: Capabilities
) -> Verdicts:
    """What each kernel of a slot's op says of it, by phase."""
    op, dtype = slot.op.name, _dtype_of(model.get_submodule(name.rpartition(".")[0]), model)
    return {
        (kernel.name, phase): ask(kernel, capabilities, Call(op, phase, dtype, slot.static))
        for kernel in kernels.get(op, ())
        for phase in PHASES
    }


def _need_served(op: str, kernel: str, slots: Mapping[str, Verdicts]) -> None:
    """Raise unless the kernel can serve one phase of one slot."""
    said = [(name, phase, verdicts[kernel, phase]) for name, verdicts in slots.items() for phase in PHASES]
    if any(verdict.ok for _, _, verdict in said):
        return
    reasons: dict[str, str] = {}  # the place where each is first given
    for name, phase, verdict in said:
        reasons.setdefault(f"{phase}: {verdict.reason}", name)
    first, *_ = slots
    told = "; ".join(reason if name == first else f"{name}: {reason}" for reason, name in reasons.items())
    raise KernelError(f"{first}: kernel '{kernel}' can't serve op '{op}' here: {told}")


def _bind_slot(
    model: nn.Module,
    name: str,
    slot: Slot,
    kernels: Sequence[Kernel],
    verdicts: Verdicts,
    choose: Mapping[str, str],
) -> Iterator[Binding]:
    op, wanted = slot.op.name, choose.get(slot.op.name)
    owner = model.get_submodule(name.rpartition(".")[0])
    alone = sum(isinstance(module, Slot) for module in owner.children()) == 1
    place = name.rpartition(".")[0] if alone else name
    candidates = sorted(kernels, key=lambda kernel: (kernel.name != wanted, -kernel.priority))
    if wanted == REFERENCE:
        candidates = []
    eligible = [kernel for kernel in candidates if kernel.name == wanted or kernel.priority > 0]
    layout = None
    if isinstance(slot, WeightSlot):
        asked = [kernel for kernel in eligible if kernel.name == wanted and _serves(kernel, verdicts)]
        layout = _choose_layout(asked or eligible, verdicts)
        owner.set_layout(layout)  # type: ignore[operator]
    for phase in PHASES:
        lost = []
        winner: Kernel | None = None
        for kernel in candidates:
            verdict = verdicts[kernel.name, phase]
            if kernel.priority < 0 and kernel.name != wanted:
                verdict = no(f"priority {kernel.priority} is below the reference's: ask for it by name")
            elif verdict.ok and kernel.layout is not layout:
                verdict = no(f"reads layout {_layout_name(kernel.layout)}, the weight is in {_layout_name(layout)}")
            if verdict.ok and winner is None:
                winner = kernel
            else:
                by_name = winner is not None and winner.name == wanted
                beaten = f"'{wanted}' is asked for" if by_name else f"priority {kernel.priority}"
                lost.append((kernel.name, verdict.reason or beaten))
        slot.chosen[phase] = winner.name if winner else REFERENCE
        slot.bound[phase] = winner.function if winner else _reference_over(slot.op, layout)
        yield Binding(place, op, phase, slot.chosen[phase], tuple(lost))


def ask(kernel: Kernel, capabilities: Capabilities, call: Call) -> Verdict:
    """What a kernel says of a call; a ``supports`` that raises says no."""
    if call.phase == "train" and not kernel.backward:
        return no("forward only")
    try:
        verdict = kernel.supports(capabilities, call)
    except Exception as error:  # one kernel's mistake must not cost every model
        return no(f"its supports() raises {type(error).__name__}: {error}")
    return verdict if isinstance(verdict, Verdict) else no(f"its supports() gives {verdict!r}, not a Verdict")


def _serves(kernel: Kernel, verdicts: Verdicts) -> bool:
    return any(verdicts[kernel.name, phase].ok for phase in PHASES)


def _choose_layout(candidates: Sequence[Kernel], verdicts: Verdicts) -> Layout | None:
    """The layout of the kernel that decodes best: decoding reads every weight once a token."""
    for phase in ("decode", "prefill", "train"):
        for kernel in candidates:
            if verdicts[kernel.name, phase].ok:
                return kernel.layout
    return None


def _reference_over(op: Op, layout: Layout | None) -> Callable[..., Tensor]:
    if layout is None:
        return op.reference

    def reference(weight: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return op.reference(layout.unpack(weight), *args, **kwargs)

    return reference


def _layout_name(layout: Layout | None) -> str:
    return "canonical" if layout is None else layout.name


def _dtype_of(owner: nn.Module, model: nn.Module) -> torch.dtype:
    for module in (owner, model):
        for tensor in module.parameters():
            if tensor.is_floating_point():
                return tensor.dtype
    return torch.float32
