"""The matrices of a model: plain, stacked by expert, packed, or trained through a quantizer.

Blocks write ``nn.Linear`` and ``ExpertLinear``; ``replace_linears`` swaps in what a quantizer or a kernel's layout
needs, so no block knows how its weights are stored. State dicts always speak canonical names and bytes.

Axes: N rows, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import REFERENCE, Example, Kernel, Layout, Op, Slot, WeightSlot
from blockzoo.step import PHASES, Phase

DECODE_ROWS = 16
"""A product of at most this many rows reads each weight once: it binds to the decode kernel."""

# --- ops ---


def _unpacked(weight: Mapping[str, Tensor], dtype: torch.dtype, quantizer: QuantizerConfig | None) -> Tensor:
    return weight["weight"] if quantizer is None else quantizer.unpack(weight, dtype)


def linear_reference(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: QuantizerConfig | None
) -> Tensor:
    """x (..., in) @ weight (out, in).T + bias. ``weight``: ``{"weight": ...}``, or a quantizer's packed tensors."""
    return F.linear(x, _unpacked(weight, x.dtype, quantizer), bias)


def expert_linear_reference(
    weight: Mapping[str, Tensor],
    x: Tensor,
    bias: Tensor | None,
    counts: Sequence[int],
    *,
    quantizer: QuantizerConfig | None,
) -> Tensor:
    """x (N, in), sorted by expert with ``counts[e]`` rows for expert e, times weight (E, out, in): (N, out).

    Unpacks one expert at a time.
    """
    parts = []
    # unbind, not one index an expert: the backward of an index is as large as all experts together
    weights = {name: tensor.unbind() for name, tensor in weight.items()}
    biases = [None] * len(counts) if bias is None else bias.unbind()
    for expert, rows in enumerate(x.split(list(counts))):
        if len(rows):
            one = {name: tensors[expert] for name, tensors in weights.items()}
            parts.append(F.linear(rows, _unpacked(one, x.dtype, quantizer), biases[expert]))
    if not parts:
        first = next(iter(weight.values()))
        return x.new_zeros(0, bias.shape[-1] if bias is not None else first.shape[1])
    return torch.cat(parts)


def chosen_linear_reference(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, chosen: Tensor, *, quantizer: QuantizerConfig | None
) -> Tensor:
    """Row i of x (N, in) times the matrix of expert ``chosen[i]``, of weight (E, out, in): (N, out).

    ``chosen`` (N,) int64. For a few rows: who reads no choice on the host need not wait for it.
    """
    n_experts = len(next(iter(weight.values())))
    return sorted_by_expert(
        lambda rows, counts: expert_linear_reference(weight, rows, bias, counts, quantizer=quantizer),
        x,
        chosen,
        n_experts,
    )


def sorted_by_expert(
    product: Callable[[Tensor, list[int]], Tensor], x: Tensor, chosen: Tensor, n_experts: int
) -> Tensor:
    """``product`` of rows that are sorted by expert and their counts, for rows x (N, in) of experts chosen (N,)."""
    order = chosen.argsort(stable=True)
    y = product(x[order], torch.bincount(chosen, minlength=n_experts).tolist())
    return torch.empty_like(y).index_copy(0, order, y)


def _linear_examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    generator = torch.Generator().manual_seed(0)
    cases = (((1,), 32, 48, True), ((7,), 64, 32, False), ((33,), 96, 17, True), ((2, 3), 64, 40, True))
    for before, d_in, d_out, bias in cases:
        rows = math.prod(before)
        draw = [
            torch.randn(shape, generator=generator).to(device, dtype)
            for shape in ((d_out, d_in), (*before, d_in), (d_out,))
        ]
        weight, x, b = draw
        yield Example(
            f"{' x '.join(map(str, before))} x {d_in} -> {d_out}{', bias' * bias}",
            ({"weight": weight}, x, b if bias else None),
            {"quantizer": None},
            static={"quantizer": None, "shape": (d_out, d_in)},
            phases=_phases_of(rows),
        )


def _phases_of(rows: int) -> tuple[Phase, ...]:
    if rows > DECODE_ROWS:
        return ("train", "prefill")
    return PHASES if rows else ("prefill", "decode")  # no row has a gradient


def _expert_examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    generator = torch.Generator().manual_seed(0)
    cases = (([1, 0, 3], True), ([0, 0, 5], True), ([2, 2, 2], False), ([3, 0, 2, 0, 1], False), ([4], True))
    wide = (([2, 0, 1], True), ([9, 0, 12], True))  # more inputs, and more rows than a decode has
    for counts, bias in (*cases, ([0, 0, 0], True), ([0, 0], False), *wide):
        experts, d_in = len(counts), 64 if (counts, bias) in wide else 32
        shapes = ((experts, 48, d_in), (sum(counts), d_in), (experts, 48))
        weight, x, b = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
        yield Example(
            f"counts {counts}{', bias' * bias}",
            ({"weight": weight}, x, b if bias else None, counts),
            {"quantizer": None},
            static={"quantizer": None, "shape": (experts, 48, d_in)},
            phases=_phases_of(sum(counts)),
        )


def _chosen_examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """The same rows out of order."""
    for example in _expert_examples(dtype, device):
        weight, x, bias, counts = example.args
        if len(x):
            generator = torch.Generator().manual_seed(1)
            chosen = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
            chosen = chosen[torch.randperm(len(chosen), generator=generator)].to(device)
            name = f"chosen {chosen.tolist()} of {len(counts)}{', bias' * (bias is not None)}"
            yield replace(example, name=name, args=(weight, x, bias, chosen))


TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LINEAR = Op("linear", linear_reference, _linear_examples, TOLERANCES)
EXPERT_LINEAR = Op("expert_linear", expert_linear_reference, _expert_examples, TOLERANCES)
CHOSEN_LINEAR = Op("chosen_linear", chosen_linear_reference, _chosen_examples, TOLERANCES)

# --- modules ---


def phase_of(rows: int) -> Phase:
    """The phase of a product by itself: a matrix sees rows, not a Step."""
    if torch.is_grad_enabled():
        return "train"
    return "decode" if rows <= DECODE_ROWS else "prefill"


class ExpertLinear(nn.Module):
    """One matrix an expert: weight (E, out, in), bias (E, out). x (N, in) -> (N, out).

    ``counts``: how many rows each expert takes, on the host, where rows are sorted by expert; or, of a few rows in any
    order, the expert of each, (N,) int64.
    """

    def __init__(self, n_experts: int, d_in: int, d_out: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n_experts, d_out)) if bias else None
        self.slot = Slot(EXPERT_LINEAR, quantizer=None, shape=tuple(self.weight.shape))
        self.few = Slot(CHOSEN_LINEAR, quantizer=None, shape=tuple(self.weight.shape))

    def forward(self, x: Tensor, counts: Sequence[int] | Tensor) -> Tensor:
        return _of_experts(self.slot, self.few, {"weight": self.weight}, x, self.bias, counts, None)


def _of_experts(
    slot: Slot,
    few: Slot | None,
    weight: Mapping[str, Tensor],
    x: Tensor,
    bias: Tensor | None,
    which: Sequence[int] | Tensor,
    quantizer: QuantizerConfig | None,
) -> Tensor:
    """``few``: None where the weight lies in a layout of ``slot``'s kernel."""
    phase = phase_of(len(x))
    if not isinstance(which, Tensor):
        return slot[phase](weight, x, bias, which, quantizer=quantizer)
    if few is not None and few.chosen[phase] != REFERENCE:
        return few[phase](weight, x, bias, which, quantizer=quantizer)
    return sorted_by_expert(
        lambda rows, counts: slot[phase](weight, rows, bias, counts, quantizer=quantizer),
        x,
        which,
        slot.static["shape"][0],
    )


class SlottedLinear(nn.Linear):
    """An ``nn.Linear`` that a kernel may serve. It shares the parameters of the one that it takes the place of."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = linear.weight, linear.bias
        self.out_features, self.in_features = linear.weight.shape
        self.slot = Slot(LINEAR, quantizer=None, shape=tuple(linear.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.slot[phase_of(x.numel() // x.shape[-1])]
        return kernel({"weight": self.weight}, x, self.bias, quantizer=None)


class StoredLinear(nn.Module):
    """A linear (or expert linear) whose weight is packed, or lies in a kernel's layout. It does not train.

    The state dict names are canonical: ``weight`` for a plain one, ``weight.<tensor>`` for each packed tensor.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: nn.Parameter | None,
        quantizer: QuantizerConfig | None,
        weight: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.quantizer = quantizer
        self.bias = bias
        self.slot = WeightSlot(
            LINEAR if len(shape) == 2 else EXPERT_LINEAR,
            quantizer=quantizer,
            shape=shape,
        )
        self.few = Slot(CHOSEN_LINEAR, quantizer=quantizer, shape=shape) if len(shape) == 3 else None
        self.layout: Layout | None = None
        self.weight_names: tuple[str, ...] = ()
        if quantizer is None:
            assert weight is not None
            self._hold({"weight": weight})
        else:
            empty = quantizer.tensors(shape)
            self._hold({name: torch.empty(t.shape, dtype=t.dtype, device=device) for name, t in empty.items()})

    def forward(self, x: Tensor, *which: Sequence[int] | Tensor) -> Tensor:
        if which:
            few = self.few if self.layout is None else None
            return _of_experts(self.slot, few, self._held(), x, self.bias, which[0], self.quantizer)
        kernel = self.slot[phase_of(x.numel() // x.shape[-1])]
        return kernel(self._held(), x, self.bias, quantizer=self.quantizer)

    def canonical(self) -> dict[str, Tensor]:
        """The weight's tensors in canonical layout."""
        held = self._held()
        return held if self.layout is None else self.layout.unpack(held)

    def set_canonical(self, tensors: Mapping[str, Tensor]) -> None:
        """Store a weight given in canonical layout."""
        self._hold(tensors if self.layout is None else self.layout.prepack(tensors))

    def set_layout(self, layout: Layout | None) -> None:
        """Rearrange the one copy of the weight."""
        if layout is self.layout:
            return
        canonical = self.canonical()
        self.layout = layout
        self.set_canonical(canonical)

    def _held(self) -> dict[str, Tensor]:
        return {name: self._buffers[f"_{name}"] for name in self.weight_names}  # type: ignore[misc]

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        for name in self.weight_names:
            del self._buffers[f"_{name}"]
        self.weight_names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_buffer(f"_{name}", tensor.detach(), persistent=False)

    def _key(self, prefix: str, name: str) -> str:
        return f"{prefix}weight" if self.quantizer is None else f"{prefix}weight.{name}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.canonical().items():
            destination[self._key(prefix, name)] = tensor

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        like = self.canonical()
        keys = {name: self._key(prefix, name) for name in like}
        found = {name: state_dict[key] for name, key in keys.items() if key in state_dict}
        missing_keys.extend(key for name, key in keys.items() if name not in found)
        if len(found) == len(like):
            wrong = [n for n in like if found[n].shape != like[n].shape]
            error_msgs.extend(
                f"{keys[n]}: shape {tuple(found[n].shape)}, expected {tuple(like[n].shape)}" for n in wrong
            )
            if not wrong:
                self.set_canonical({n: found[n].to(t.device, t.dtype, copy=True) for n, t in like.items()})
        rest = {k: v for k, v in state_dict.items() if k not in keys.values()}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        dtypes = {name: tensor.dtype for name, tensor in self._held().items()}
        super()._apply(fn, recurse)
        if self.quantizer is not None:  # a cast of the model must not touch packed bytes
            for name, dtype in dtypes.items():
                self._buffers[f"_{name}"] = self._held()[name].to(dtype)
        return self

    def extra_repr(self) -> str:
        return f"{self.shape}, quantizer={self.quantizer}, layout={self.layout.name if self.layout else 'canonical'}"


class StraightThrough(nn.Module):
    """Forward sees the quantized weight, backward passes the gradient to the master unchanged.

    Bengio et al. 2013, arXiv:1308.3432.
    """

    def __init__(self, quantizer: QuantizerConfig) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            rounded = self.quantizer.unpack(self.quantizer.pack(weight), weight.dtype)
        return weight + (rounded - weight).detach()


class FakeQuantLinear(nn.Module):
    """A linear or expert linear that keeps its float master under ``weight`` and computes with the quantized one."""

    def __init__(self, linear: nn.Linear | ExpertLinear, quantizer: QuantizerConfig) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.quantize = StraightThrough(quantizer)

    def forward(self, x: Tensor, *which: Sequence[int] | Tensor) -> Tensor:
        weight = self.quantize(self.weight)
        if not which:
            return F.linear(x, weight, self.bias)
        product = chosen_linear_reference if isinstance(which[0], Tensor) else expert_linear_reference
        return product({"weight": weight}, x, self.bias, which[0], quantizer=None)  # type: ignore[arg-type]


AnyLinear = nn.Linear | ExpertLinear
REPLACEABLE = (nn.Linear, SlottedLinear, ExpertLinear)
"""Exactly these: a subclass, such as a router, is its block's own."""


def matrix(linear: nn.Module, dtype: torch.dtype) -> Tensor:
    """The (out, in) matrix that ``linear`` multiplies by, (E, out, in) of an expert linear, however it is stored.

    For a block that needs the weight itself; its ``nn.Linear`` may have become packed or trained through a quantizer.
    Packed bytes are unpacked anew at each call; gradients reach a weight that trains.
    """
    if isinstance(linear, StoredLinear):
        return _unpacked(linear.canonical(), dtype, linear.quantizer).to(dtype)
    if isinstance(linear, FakeQuantLinear):
        return linear.quantize(linear.weight).to(dtype)
    assert isinstance(linear, AnyLinear)
    return linear.weight.to(dtype)


def replace_linears(model: nn.Module, replacement: Callable[[str, AnyLinear], nn.Module | None]) -> None:
    """Ask ``replacement(name, linear)`` for every linear and expert linear; what it returns takes the place."""
    found = [(name, module) for name, module in model.named_modules() if type(module) in REPLACEABLE]
    for name, module in found:
        assert isinstance(module, (nn.Linear, ExpertLinear))
        new = replacement(name, module)
        if new is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new)


def chosen_for_matrices(kernels: Mapping[str, Sequence[Kernel]], choose: Mapping[str, str]) -> list[Kernel]:
    """The kernels that are asked for by name for linears and expert linears."""
    return [k for op in (LINEAR.name, EXPERT_LINEAR.name) for k in kernels.get(op, ()) if k.name == choose.get(op)]


def give_slots(model: nn.Module, chosen: Sequence[Kernel]) -> None:
    """Put every matrix into a slot for kernels; its layout can change where a chosen kernel has one of its own."""
    replace_linears(model, stored if any(kernel.layout for kernel in chosen) else slotted)


def slotted(name: str, linear: AnyLinear) -> SlottedLinear | None:
    """The same linear with a slot for kernels: a replacement for ``replace_linears``."""
    return SlottedLinear(linear) if type(linear) is nn.Linear else None


def stored(name: str, linear: AnyLinear) -> StoredLinear:
    """The same linear, ready for a kernel's layout: a replacement for ``replace_linears``. It shares the weight."""
    return StoredLinear(tuple(linear.weight.shape), linear.bias, None, weight=linear.weight)
