"""Gated linear unit: Shazeer 2020, arXiv:2002.05202. SwiGLU with silu (Llama, Qwen3), GeGLU with gelu_tanh (Gemma).

gpt-oss's gate is ``g * sigmoid(1.702 g) * (u + 1)`` with g clamped above at 7 and u on both sides: activation_scale
1.702, limit 7, up_shift 1. (``x * sigmoid(a x)`` is ``silu(a x) / a``.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from blockzoo.blocks import Aux, Cost, Dims, FFNConfig, LinearFactory, Role, Scale, linear_cost
from blockzoo.kernels import Slot
from blockzoo.linear import phase_of
from blockzoo_blocks.casting import cast_once
from blockzoo_blocks.ffn.activations import Activation
from blockzoo_blocks.ffn.gate import GATE


class GLUConfig(FFNConfig):
    """Gated linear unit: SwiGLU, GeGLU, gpt-oss's clamped gate.

    YAML: ``ffn: {type: glu, d_ff: 3072, activation: silu}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "Gated feed-forward"
    stackable: ClassVar[bool] = True
    scales: ClassVar[Mapping[str, Scale]] = {"d_ff": "d_ff"}

    d_ff: PositiveInt = Field(description="inner width", le=2**22)
    activation: Activation = Field("silu", description="on the gate")
    bias: bool = Field(False, description="biases on all three matrices")
    activation_scale: PositiveFloat = Field(1.0, description="a in x * sigmoid(a x); silu only")
    limit: PositiveFloat | None = Field(None, description="the gate is clamped above at this, the up part to +- this")
    up_shift: float = Field(0.0, description="added to the up part before it is gated")

    @classmethod
    def samples(cls) -> list[GLUConfig]:
        clamped = cls(d_ff=32, bias=True, activation_scale=1.702, limit=7.0, up_shift=1.0)
        return [cls(d_ff=64), clamped, cls(d_ff=48, activation="gelu_tanh")]

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.activation_scale != 1.0 and self.activation != "silu":
            yield "activation_scale", f"only silu has a scale, the activation is {self.activation}"

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> GLU:
        return GLU(
            gate=linear(dims.d_model, self.d_ff, bias=self.bias),
            up=linear(dims.d_model, self.d_ff, bias=self.bias),
            down=linear(self.d_ff, dims.d_model, bias=self.bias),
            activation=self.activation,
            activation_scale=self.activation_scale,
            limit=self.limit,
            up_shift=self.up_shift,
        )

    def cost(self, dims: Dims) -> Cost:
        one = linear_cost(dims.d_model, self.d_ff, bias=self.bias)
        down = linear_cost(self.d_ff, dims.d_model, bias=self.bias, role=Role.RESIDUAL_OUTPUT)
        return one.under("gate") + one.under("up") + down.under("down")


class GLU(nn.Module):
    """down(activation(gate(x)) * (up(x) + shift)): (..., D) -> (..., D). ``which`` goes to each matrix."""

    def __init__(
        self,
        gate: nn.Module,
        up: nn.Module,
        down: nn.Module,
        activation: Activation = "silu",
        activation_scale: float = 1.0,
        limit: float | None = None,
        up_shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.gate, self.up, self.down = gate, up, down
        self.how = {
            "activation": activation,
            "activation_scale": activation_scale,
            "limit": limit,
            "up_shift": up_shift,
        }
        self.slot = Slot(GATE, **self.how)

    def forward(self, x: Tensor, *which: object) -> tuple[Tensor, Aux]:
        x = cast_once(x)
        gate, up = self.gate(x, *which), self.up(x, *which)
        kernel = self.slot[phase_of(gate.numel() // gate.shape[-1])]
        return self.down(kernel(gate, up, **self.how), *which), {}
