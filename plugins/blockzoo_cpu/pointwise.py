"""The steps between products in C: RMS norm, rotation of heads, the gate of a gated unit, one pass over memory each.

Rounds to bfloat16 wherever the references do; within one unit in the last place of them. In float32 such a unit moves
gpt-oss's logits by 2e-5, as its experts are chosen by close calls, so prompts keep the reference's order there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_cpu.calls import heads_as_they_lie, in_one_piece, like_the_first, lying_as, operation, place
from blockzoo_cpu.library import problem
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


def supports_layer_norm(capabilities: Capabilities, call: Call) -> Verdict:
    """The same, of decoding: in prompts PyTorch's own is as fast."""
    return no("serves decoding") if call.phase != "decode" else supports(capabilities, call)


def rms_norm(x: Tensor, weight: Tensor | None, *, eps: float, scale_in_fp32: bool, weight_offset: float) -> Tensor:
    """As the op ``rms_norm`` says."""
    return NORM_ROWS(x, weight, eps, scale_in_fp32, weight_offset)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Tensor:
    """As the op ``layer_norm`` says."""
    return LAYER_ROWS(x, weight, bias, eps)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """As the op ``rotary`` says."""
    table = (x.shape[0], 1, x.shape[2], cos.shape[-1])
    if cos.shape != table:
        cos, sin = cos.expand(table).contiguous(), sin.expand(table).contiguous()
    return TURN_HEADS(x, cos, sin, interleaved)


def gate(
    gate: Tensor, up: Tensor, *, activation: str, activation_scale: float, limit: float | None, up_shift: float
) -> Tensor:
    """As the op ``gate`` says."""
    return GATE_SPAN(gate, up, ACTIVATIONS.index(activation), activation_scale, limit or 0.0, up_shift)


def heads_of(gains: Tensor | None) -> int:
    """How many rows of x have gains of their own, one after the other."""
    return 1 if gains is None or gains.dim() == 1 else gains.shape[0]


def type_of(*tensors: Tensor | None) -> int:
    """Of the first that there is."""
    return next(TYPES[tensor.dtype] for tensor in tensors if tensor is not None)


NORM_ROWS = operation(
    "rms_norm(Tensor x, Tensor? weight, float eps, bool late, float offset) -> Tensor",
    "9q2d",
    like=like_the_first,
    told=lambda y, x, weight, eps, late, offset: (
        *(place(x), place(weight), place(y), TYPES[x.dtype], type_of(weight, x), late),
        *(x.numel() // x.shape[-1], x.shape[-1], heads_of(weight), eps, offset),
    ),
    ready=in_one_piece,
)
LAYER_ROWS = operation(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> Tensor",
    "10qd",
    like=like_the_first,
    told=lambda y, x, weight, bias, eps: (
        *(
            place(x),
            place(weight),
            place(bias),
            place(y),
            TYPES[x.dtype],
            type_of(weight, bias, x),
            type_of(bias, weight, x),
        ),
        *(x.numel() // x.shape[-1], x.shape[-1], max(heads_of(weight), heads_of(bias)), eps),
    ),
    ready=in_one_piece,
)
TURN_HEADS = operation(
    "rotary(Tensor x, Tensor cos, Tensor sin, bool interleaved) -> Tensor",
    "17q",
    like=lying_as,
    told=lambda y, x, cos, sin, interleaved: (
        *(place(x), place(cos), place(sin), place(y), TYPES[x.dtype], *x.shape, cos.shape[-1], interleaved),
        *(*x.stride()[:3], *y.stride()[:3]),
    ),
    ready=lambda x, *rest: (heads_as_they_lie(x), *in_one_piece(*rest)),
)
GATE_SPAN = operation(
    "gate(Tensor gate, Tensor up, int activation, float scale, float limit, float shift) -> Tensor",
    "6q3d",
    like=like_the_first,
    told=lambda y, gate, up, activation, scale, limit, shift: (
        *(place(gate), place(up), place(y), TYPES[gate.dtype], activation, gate.numel(), scale, limit, shift),
    ),
    ready=in_one_piece,
)

RMS_NORM = Kernel("cpu_rms_norm", rms_norm, supports, compile_safe=True, priority=50)
LAYER_NORM = Kernel("cpu_layer_norm", layer_norm, supports_layer_norm, compile_safe=True, priority=50)
ROTARY = Kernel("cpu_rotary", rotary, supports, compile_safe=True, priority=50)
GATE = Kernel("cpu_gate", gate, supports, compile_safe=True, priority=50)
