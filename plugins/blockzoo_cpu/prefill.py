"""Prefill's products: many rows times MXFP4, int8 or plain bfloat16 weights, or times those of experts.

In bfloat16, where the CPU has AMX, weights are de-quantized into cache tile by tile and multiplied there (halves.c).
Where it has AVX-512 VNNI alone, packed ones are multiplied as bytes, with activations rounded by groups of 32 as in
decoding (bytes.c); plain ones are PyTorch's there. Elsewhere, and in float32, a stretch of packed weight rows at a time
is unpacked in C and multiplied by PyTorch in float32. Nothing ever holds a whole matrix unpacked.

Axes: N rows of activations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig
from blockzoo.errors import KernelError
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.linear import expert_linear_reference
from blockzoo_cpu.calls import OPS, in_one_piece, place
from blockzoo_cpu.library import Tiles, function, problem, tiles, wide
from blockzoo_cpu.products import GROUP, TYPES, over_rows, refusal, stored

MOST_ROWS = 384
"""Of plain weights: PyTorch arranges these anew at each call, which is worth it for more rows."""
NO_AMX = f"reads plain weights in bfloat16, with AMX, of a multiple of {GROUP} inputs"
STRETCH = 2**20
"""Weights that are unpacked at a time for a product of PyTorch's: 4 MiB."""
NUMBER, POINTER = ctypes.c_int, ctypes.c_void_p


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine, weight and phase are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.phase != "prefill":
        return no("serves prefill: many rows")
    if (reason := refusal(call) or problem()) is not None:
        return no(reason)
    plain = call.static.get("quantizer") is None
    if plain and (call.dtype != torch.bfloat16 or tiles() != Tiles.AMX or call.static.get("shape", (1,))[-1] % GROUP):
        return no(NO_AMX)
    return YES


def _packed(
    x: Tensor, codes: Tensor, scales: Tensor | None, bias: Tensor | None, counts: Sequence[int] | None, kind: int
) -> Tensor:
    """``codes`` and ``scales`` as their quantizer stores them, or plain weights alone; one more axis in front for
    experts.
    """
    y = _like(x, codes, scales, bias, counts, kind)
    if counts is None:
        codes, counts = codes[None], [len(x)]
        scales, bias = (None if t is None else t[None] for t in (scales, bias))
    # rows lie one after another for the C code; weights do already, so they are never copied
    codes, scales, bias, x = in_one_piece(codes, scales, bias, x)
    amx = tiles() == Tiles.AMX
    if scales is None and not amx:  # a program that was exported elsewhere
        raise KernelError(f"kernel 'cpu_tiles' {NO_AMX}: choose another for the op 'linear' or 'expert_linear'")
    if scales is None or (x.dtype == torch.bfloat16 and (wide() or amx)):
        _at_once(kind, codes, scales, bias, x, counts, y, rounded=not amx)
    else:
        _by_stretches(kind, codes, scales, bias, x, counts, y)
    return y


def _at_once(
    kind: int,
    codes: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    x: Tensor,
    counts: Sequence[int],
    y: Tensor,
    *,
    rounded: bool,
) -> None:
    failed = _prompt_times()(
        rounded,
        kind,
        *(place(codes), place(scales), place(bias)),
        0 if bias is None else TYPES[bias.dtype],
        *(place(x), place(y)),
        x.shape[1],
        y.shape[1],
        (ctypes.c_int64 * len(counts))(*counts),
        len(counts),
    )
    if failed:
        raise MemoryError(f"no memory for the activations of {len(x)} rows")


def _by_stretches(
    kind: int, codes: Tensor, scales: Tensor, bias: Tensor | None, x: Tensor, counts: Sequence[int], y: Tensor
) -> None:
    d_in, d_out = x.shape[1], y.shape[1]
    rows = min(max(1, STRETCH // d_in), d_out)
    plain = torch.empty(rows, d_in)
    parts = zip(x.float().split(list(counts)), y.split(list(counts)), strict=True)
    for expert, (tokens, out) in enumerate(parts):
        for begin in range(0, d_out, rows) if len(tokens) else ():
            these = slice(begin, begin + rows)
            packed, steps = codes[expert, these], scales[expert, these]
            _unpack_rows()(kind, packed.data_ptr(), steps.data_ptr(), len(packed), d_in, plain.data_ptr(), int(wide()))
            added = None if bias is None else bias[expert, these].float()
            out[:, these] = F.linear(tokens, plain[: len(packed)], added)


def _like(
    x: Tensor, codes: Tensor, scales: Tensor | None, bias: Tensor | None, counts: Sequence[int] | None, kind: int
) -> Tensor:
    return x.new_empty(x.shape[0], (codes if scales is None else scales).shape[-2])


@cache
def _prompt_times() -> Any:
    return function(
        "prompt_times",
        *(NUMBER, NUMBER, POINTER, POINTER, POINTER, NUMBER),  # rounded, kind, weights, scales, bias, its type
        *(POINTER, POINTER, NUMBER, NUMBER, POINTER, NUMBER),  # x, y, their widths, counts, experts
    )


@cache
def _unpack_rows() -> Any:
    return function(
        "unpack_rows",
        *(NUMBER, POINTER, POINTER, NUMBER, NUMBER),  # weight, scales, sizes
        *(POINTER, NUMBER),  # into what, wide
    )


OPS.define("packed(Tensor x, Tensor codes, Tensor? scales, Tensor? bias, SymInt[]? counts, int kind) -> Tensor")
OPS.impl("packed", _packed, "CPU")
torch.library.register_fake("blockzoo_cpu::packed", _like, lib=OPS)


def linear(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: QuantizerConfig | None
) -> Tensor:
    """As the op ``linear`` says."""
    kind, codes, scales = stored(weight, quantizer)
    if quantizer is None and (x.dtype != codes.dtype or x.numel() > MOST_ROWS * x.shape[-1]):
        return F.linear(x, codes, bias)
    return over_rows(lambda rows: torch.ops.blockzoo_cpu.packed(rows, codes, scales, bias, None, kind), x)


def expert_linear(
    weight: Mapping[str, Tensor],
    x: Tensor,
    bias: Tensor | None,
    counts: Sequence[int],
    *,
    quantizer: QuantizerConfig | None,
) -> Tensor:
    """As the op ``expert_linear`` says."""
    kind, codes, scales = stored(weight, quantizer)
    if quantizer is None and x.dtype != codes.dtype:
        return expert_linear_reference(weight, x, bias, counts, quantizer=None)
    return torch.ops.blockzoo_cpu.packed(x, codes, scales, bias, counts, kind)


LINEAR_TILES = Kernel("cpu_tiles", linear, supports, compile_safe=True, priority=50)
EXPERT_TILES = Kernel("cpu_expert_tiles", expert_linear, supports, compile_safe=True, priority=50)
