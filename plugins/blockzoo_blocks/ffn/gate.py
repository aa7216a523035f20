"""The gate op of gated units: its definition in plain PyTorch, and inputs to try kernels on.

Shazeer 2020, arXiv:2002.05202; clamped and shifted as gpt-oss has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from blockzoo.kernels import Example, Op
from blockzoo_blocks.ffn.activations import ACTIVATIONS, Activation


def gate_reference(
    gate: Tensor, up: Tensor, *, activation: Activation, activation_scale: float, limit: float | None, up_shift: float
) -> Tensor:
    """activation(gate) * (up + up_shift), all (..., F). ``limit`` clamps the gate above and up on both sides;
    ``activation_scale`` a makes silu x * sigmoid(a x).
    """
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    scaled = activation_scale != 1.0
    gate = gate * (gate * activation_scale).sigmoid() if scaled else ACTIVATIONS[activation](gate)
    return gate * (up + up_shift) if up_shift else gate * up


def examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    """Every activation, gpt-oss's gate and its parts one by one; one number, and widths of no power of two."""
    generator = torch.Generator().manual_seed(0)
    plain: dict[str, Any] = {"activation_scale": 1.0, "limit": None, "up_shift": 0.0}
    ways: dict[str, dict[str, Any]] = {name: {"activation": name, **plain} for name in ACTIVATIONS}
    parts = {"activation_scale": 1.702, "limit": 2.0, "up_shift": 1.0}
    ways |= {f"silu, {part}": {"activation": "silu", **plain, part: value} for part, value in parts.items()}
    ways["silu, limit 1.5"] = {"activation": "silu", **plain, "limit": 1.5}
    ways["clamped"] = {"activation": "silu", **parts}
    for name, how in ways.items():
        for shape in ((1, 1, 64), (3, 37), (1,)):
            gate, up = (torch.randn(shape, generator=generator).mul(3).to(device, dtype) for _ in range(2))
            yield Example(f"{name}, {shape}", (gate, up), how, static=how)


GATE = Op(
    "gate",
    gate_reference,
    examples,
    {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    static=frozenset({"activation", "activation_scale", "limit", "up_shift"}),
)
