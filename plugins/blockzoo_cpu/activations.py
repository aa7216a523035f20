"""GELU's tanh approximation in C, forward and backward: PyTorch spends most of its time on the tanh.

What a kernel is bound by says nothing about the activations that arrive: autocast leaves a model's weights in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.errors import KernelError
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_blocks.ffn.activations import Activation
from blockzoo_cpu.calls import OPS, in_one_piece, like_the_first, operation, place
from blockzoo_cpu.library import problem

SERVED = (torch.bfloat16, torch.float32)


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine and call are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if (wanted := call.static.get("activation")) != "gelu_tanh":
        return no(f"has gelu_tanh, not {wanted}")
    if call.dtype not in SERVED:
        return no(f"serves bfloat16 and float32, not {str(call.dtype).removeprefix('torch.')}")
    why = problem()
    return YES if why is None else no(why)


def activation(x: Tensor, *, activation: Activation) -> Tensor:
    """As the op ``activation`` says, of gelu_tanh. It has no second derivative."""
    if x.dtype not in SERVED:  # autocast's float16
        return F.gelu(x, approximate="tanh")
    trains = x.requires_grad and torch.is_grad_enabled()
    return (torch.ops.blockzoo_cpu.gelu_tanh if trains else GELU_TANH)(x)


GELU_TANH = operation(
    "gelu_tanh(Tensor x) -> Tensor",
    "5q",
    like=like_the_first,
    told=lambda y, x: (place(x), 0, place(y), x.numel(), x.dtype == torch.float32),
    ready=in_one_piece,
)
GELU_TANH_BACKWARD = operation(
    "gelu_tanh_backward(Tensor x, Tensor dy) -> Tensor",
    "5q",
    like=like_the_first,
    told=lambda dx, x, dy: (place(x), place(dy), place(dx), x.numel(), x.dtype == torch.float32),
    ready=in_one_piece,
)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, dy: Tensor) -> Tensor:
    return torch.ops.blockzoo_cpu.gelu_tanh_backward(ctx.saved_tensors[0], dy)


def _no_second(ctx: Any, ddx: Tensor) -> Tensor:
    raise KernelError("kernel 'cpu_activation' has no second derivative: choose 'reference' for the op 'activation'")


for _operation, _derivative in ((GELU_TANH, _gradient), (GELU_TANH_BACKWARD, _no_second)):
    torch.library.register_autograd(f"blockzoo_cpu::{_operation.name}", _derivative, setup_context=_keep, lib=OPS)

ACTIVATION = Kernel("cpu_activation", activation, supports, backward=True, compile_safe=True, priority=50)
