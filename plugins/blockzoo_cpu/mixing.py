"""The end of a mixture of experts in C: one pass where PyTorch makes three, and a recording goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_cpu.calls import in_one_piece, operation, place
from blockzoo_cpu.library import problem
from blockzoo_cpu.products import TYPES


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine and call are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if call.dtype not in TYPES:
        return no(f"serves float32 and bfloat16, not {str(call.dtype).removeprefix('torch.')}")
    why = problem()
    return YES if why is None else no(why)


def mix_experts(y: Tensor, weights: Tensor) -> Tensor:
    """As the op ``mix_experts`` says."""
    return MIX(y, weights)


def _like(y: Tensor, weights: Tensor) -> Tensor:
    return y.new_empty(weights.shape[0], y.shape[-1])


MIX = operation(
    "mix_experts(Tensor y, Tensor weights) -> Tensor",
    "7q",
    like=_like,
    told=lambda out, y, weights: (
        *(place(y), place(weights), place(out), TYPES[y.dtype], *weights.shape, y.shape[-1]),
    ),
    ready=lambda y, weights: in_one_piece(y, weights.to(torch.float32)),
)

MIX_EXPERTS = Kernel("cpu_mix_experts", mix_experts, supports, compile_safe=True, priority=50)
