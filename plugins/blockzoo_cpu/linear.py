"""Decoding's products in C: a few rows times float32, bfloat16, MXFP4 or int8 weights, and times those of experts.

In float32 activations stay as they are ("exact"). In bfloat16 the activations of packed weights are rounded to int8 by
groups of 32, so that products are of bytes (VNNI): twice as fast as widening the weights, within what bfloat16
itself rounds away. Weights stay in the layout they are published in.

Axes: N rows of activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_cpu.calls import in_one_piece, operation, place
from blockzoo_cpu.library import problem, wide
from blockzoo_cpu.products import TYPES, over_rows, refusal, stored

PAIR = 64


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine, weight and phase are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.phase != "decode":
        return no("serves decoding: few rows")
    if (reason := refusal(call)) is not None:
        return no(reason)
    quantizer = call.static.get("quantizer")
    if quantizer is not None and call.static["shape"][-1] % PAIR:
        return no(f"reads packed rows of a multiple of {PAIR} inputs, not {call.static['shape'][-1]}")
    why = problem()
    return YES if why is None else no(why)


def linear(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: QuantizerConfig | None
) -> Tensor:
    """As the op ``linear`` says."""
    kind, weights, scales = stored(weight, quantizer)
    return over_rows(lambda rows: ROWS(rows, weights, scales, bias, None, kind), x)


def chosen_linear(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, chosen: Tensor, *, quantizer: QuantizerConfig | None
) -> Tensor:
    """As the op ``chosen_linear`` says."""
    kind, weights, scales = stored(weight, quantizer)
    return ROWS(x, weights, scales, bias, chosen, kind)


def expert_linear(
    weight: Mapping[str, Tensor],
    x: Tensor,
    bias: Tensor | None,
    counts: Sequence[int],
    *,
    quantizer: QuantizerConfig | None,
) -> Tensor:
    """As the op ``expert_linear`` says."""
    chosen = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts), output_size=len(x))
    return chosen_linear(weight, x, bias, chosen, quantizer=quantizer)


def _ready(
    x: Tensor, weights: Tensor, scales: Tensor | None, bias: Tensor | None, chosen: Tensor | None, kind: int
) -> tuple[Any, ...]:
    """Rows one after another, or one row for all, which is prepared once; weights lie so already."""
    if x.stride(1) != 1 or x.stride(0) not in (0, x.shape[1]):
        x = x.contiguous()
    return x, *in_one_piece(weights, scales, bias, chosen), kind


def _like(x: Tensor, weights: Tensor, scales: object, bias: object, chosen: object, kind: int) -> Tensor:
    return x.new_empty(x.shape[0], weights.shape[0 if chosen is None else 1])


def _told(
    y: Tensor,
    x: Tensor,
    weights: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    chosen: Tensor | None,
    kind: int,
) -> tuple[int, ...]:
    rounded = scales is not None and x.dtype == torch.bfloat16 and wide()
    return (
        *(place(weights), place(scales), place(bias), place(x), place(y), place(chosen)),
        *(kind, 0 if bias is None else TYPES[bias.dtype], x.stride(0), TYPES[x.dtype]),
        *(*x.shape, y.shape[1], 1 if chosen is None else len(weights), rounded, wide()),
    )


ROWS = operation(
    "rows(Tensor x, Tensor weights, Tensor? scales, Tensor? bias, Tensor? chosen, int kind) -> Tensor",
    "16q",
    like=_like,
    told=_told,
    ready=_ready,
)
"""``weights`` and ``scales`` as their quantizer stores them; one more axis in front where rows have chosen experts."""

LINEAR_ROWS = Kernel("cpu_rows", linear, supports, compile_safe=True, priority=50)
CHOSEN_ROWS = Kernel("cpu_chosen_rows", chosen_linear, supports, compile_safe=True, priority=50)
EXPERT_ROWS = Kernel("cpu_expert_rows", expert_linear, supports, priority=50)
