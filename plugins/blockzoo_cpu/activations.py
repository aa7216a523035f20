"""GELU's tanh approximation in C for bfloat16, forward and backward: PyTorch spends most of its time on the tanh.

Autocast leaves a model's weights in float32, so what a kernel is bound by says nothing about the activations that
arrive: float32 ones go to PyTorch's function, and training in float32 keeps its bits.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.errors import KernelError
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo_blocks.ffn.activations import Activation
from blockzoo_cpu.dispatch import OPS, define, may_go_direct
from blockzoo_cpu.library import function, problem


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    """Whether this machine and call are served."""
    if capabilities.device != "cpu":
        return no("runs on a CPU")
    if (wanted := call.static.get("activation")) != "gelu_tanh":
        return no(f"has gelu_tanh, not {wanted}")
    if call.dtype != torch.bfloat16 and (call.phase != "train" or call.dtype != torch.float32):
        return no(f"serves bfloat16, and float32 weights that train, not {str(call.dtype).removeprefix('torch.')}")
    why = problem()
    return YES if why is None else no(why)


def activation(x: Tensor, *, activation: Activation) -> Tensor:
    """As the op ``activation`` says, of gelu_tanh. In bfloat16 it has no second derivative."""
    if x.dtype != torch.bfloat16:
        return F.gelu(x, approximate="tanh")
    alone = may_go_direct(x) and not (x.requires_grad and torch.is_grad_enabled())
    return (_gelu_tanh if alone else torch.ops.blockzoo_cpu.gelu_tanh)(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    _function("gelu_tanh", 2)(x.data_ptr(), y.data_ptr(), x.numel())
    return y


def _gelu_tanh_backward(x: Tensor, dy: Tensor) -> Tensor:
    x, dy = x.contiguous(), dy.contiguous()
    dx = torch.empty_like(x)
    _function("gelu_tanh_backward", 3)(x.data_ptr(), dy.data_ptr(), dx.data_ptr(), x.numel())
    return dx


@cache
def _function(name: str, n_tensors: int) -> Any:
    return function(name, *[ctypes.c_void_p] * n_tensors, ctypes.c_int64)


def _like(x: Tensor, *rest: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, dy: Tensor) -> Tensor:
    return torch.ops.blockzoo_cpu.gelu_tanh_backward(ctx.saved_tensors[0], dy)


def _no_second(ctx: Any, ddx: Tensor) -> Tensor:
    raise KernelError("kernel 'cpu_activation' has no second derivative: choose 'reference' for the op 'activation'")


for _name, _arguments, _implementation, _derivative in (
    ("gelu_tanh", "Tensor x", _gelu_tanh, _gradient),
    ("gelu_tanh_backward", "Tensor x, Tensor dy", _gelu_tanh_backward, _no_second),
):
    define(f"{_name}({_arguments}) -> Tensor", _implementation, _like)
    torch.library.register_autograd(f"blockzoo_cpu::{_name}", _derivative, setup_context=_keep, lib=OPS)

ACTIVATION = Kernel("cpu_activation", activation, supports, backward=True, compile_safe=True, priority=50)
