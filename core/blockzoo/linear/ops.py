"""The products of matrices as ops: by a matrix, by experts' of sorted rows, by those that a tensor chooses.

Axes: N rows, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import Example, Op
from blockzoo.step import PHASES, Phase

DECODE_ROWS = 16
"""A product of at most this many rows reads each weight once: it binds to the decode kernel."""


def phase_of(rows: int) -> Phase:
    """The phase of a product by itself: a matrix sees rows, not a Step."""
    if torch.is_grad_enabled():
        return "train"
    return "decode" if rows <= DECODE_ROWS else "prefill"


def unpacked(weight: Mapping[str, Tensor], dtype: torch.dtype, quantizer: QuantizerConfig | None) -> Tensor:
    return weight["weight"] if quantizer is None else quantizer.unpack(weight, dtype)


def linear_reference(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: QuantizerConfig | None
) -> Tensor:
    """x (..., in) @ weight (out, in).T + bias. ``weight``: ``{"weight": ...}``, or a quantizer's packed tensors."""
    return F.linear(x, unpacked(weight, x.dtype, quantizer), bias)


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
            parts.append(F.linear(rows, unpacked(one, x.dtype, quantizer), biases[expert]))
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
