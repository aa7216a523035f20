"""The activation op of blocks of two matrices: its definition in plain PyTorch, and inputs to try kernels on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from blockzoo.kernels import Example, Op
from blockzoo_blocks.ffn.activations import ACTIVATIONS, Activation


def activation_reference(x: Tensor, *, activation: Activation) -> Tensor:
    """activation(x), elementwise: any shape, dtype kept."""
    return ACTIVATIONS[activation](x)


def examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """Every activation; tokens, one number, more than one thread's share."""
    generator = torch.Generator().manual_seed(0)
    for name in ACTIVATIONS:
        how = {"activation": name}
        for shape in ((1, 1, 64), (3, 37), (1,), (130, 129)):
            x = torch.randn(shape, generator=generator).mul(4)
            x.view(-1)[0].abs_()  # one far below zero, alone, would show how PyTorch's 1 + tanh cancels
            yield Example(f"{name}, {shape}", (x.to(device, dtype),), how, static=how)


ACTIVATION = Op(
    "activation",
    activation_reference,
    examples,
    {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    static=frozenset({"activation"}),
)
