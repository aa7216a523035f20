"""The steps between products in C: RMS norm, rotation of heads, the gate of a gated unit, one pass over memory each.

Rounds to bfloat16 wherever the references do; within one unit in the last place of them. In float32 such a unit moves
gpt-oss's logits by 2e-5, as its experts are chosen by close calls, so prompts keep the reference's order there.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_cpu.dispatch import define, may_go_direct
from blockzoo_cpu.library import function, problem
from blockzoo_cpu.products import TYPES

ACTIVATIONS = ("silu", "gelu_tanh", "relu", "relu2")
"""In the order of pointwise.c."""


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine and call are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.dtype not in TYPES:
        return no(f"serves float32 and bfloat16, not {str(call.dtype).removeprefix('torch.')}")
    if call.dtype == torch.float32 and call.phase == "prefill":
        return no("in float32 serves decoding: prompts keep the reference's order of operations")
    activation = call.static.get("activation", "silu")
    if activation not in ACTIVATIONS:
        return no(f"has {', '.join(ACTIVATIONS)}, not {activation}")
    why = problem()
    return YES if why is None else no(why)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, scale_in_fp32: bool, weight_offset: float) -> Tensor:
    """As the op ``rms_norm`` says."""
    run = _rms_norm if may_go_direct(x) else torch.ops.blockzoo_cpu.rms_norm
    return run(x, weight, eps, scale_in_fp32, weight_offset)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """As the op ``rotary`` says."""
    return (_rotary if may_go_direct(x) else torch.ops.blockzoo_cpu.rotary)(x, cos, sin, interleaved)


def gate(
    gate: Tensor, up: Tensor, *, activation: str, activation_scale: float, limit: float | None, up_shift: float
) -> Tensor:
    """As the op ``gate`` says."""
    run = _gate if may_go_direct(gate) else torch.ops.blockzoo_cpu.gate
    return run(gate, up, ACTIVATIONS.index(activation), activation_scale, limit or 0.0, up_shift)


def _rms_norm(x: Tensor, weight: Tensor, eps: float, late: bool, offset: float) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    y, dim = torch.empty_like(x), x.shape[-1]
    _function("rms_norm_rows", "pipiffipli")(
        x.data_ptr(),
        TYPES[x.dtype],
        weight.data_ptr(),
        TYPES[weight.dtype],
        eps,
        offset,
        late,
        y.data_ptr(),
        x.numel() // dim,
        dim,
    )
    return y


def _rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    batch, heads, tokens, dim = x.shape
    x, half = x.contiguous(), cos.shape[-1]
    y = torch.empty_like(x)
    if cos.shape != (batch, 1, tokens, half):
        cos, sin = (table.expand(batch, 1, tokens, half) for table in (cos, sin))
    cos, sin = cos.contiguous(), sin.contiguous()
    _function("rotary_heads", "pppipllliii")(
        x.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        TYPES[x.dtype],
        y.data_ptr(),
        batch,
        heads,
        tokens,
        dim,
        half,
        interleaved,
    )
    return y


def _gate(gate: Tensor, up: Tensor, activation: int, scale: float, limit: float, shift: float) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    _function("gate_rows", "ppiifffpl")(
        gate.data_ptr(),
        up.data_ptr(),
        TYPES[gate.dtype],
        activation,
        scale,
        limit,
        shift,
        y.data_ptr(),
        gate.numel(),
    )
    return y


CODES = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "f": ctypes.c_float}


@cache
def _function(name: str, arguments: str) -> Any:
    return function(name, *(CODES[code] for code in arguments))


def _like(x: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


for _name, _arguments, _implementation in (
    ("rms_norm", "Tensor x, Tensor weight, float eps, bool late, float offset", _rms_norm),
    ("rotary", "Tensor x, Tensor cos, Tensor sin, bool interleaved", _rotary),
    ("gate", "Tensor gate, Tensor up, int activation, float scale, float limit, float shift", _gate),
):
    define(f"{_name}({_arguments}) -> Tensor", _implementation, _like)

RMS_NORM = Kernel("cpu_rms_norm", rms_norm, supports, compile_safe=True, priority=50)
ROTARY = Kernel("cpu_rotary", rotary, supports, compile_safe=True, priority=50)
GATE = Kernel("cpu_gate", gate, supports, compile_safe=True, priority=50)
