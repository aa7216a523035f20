"""Two-matrix feed-forward block: Vaswani et al. 2017, arXiv:1706.03762; GPT-2 with gelu_tanh and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from blockzoo.blocks import Aux, Cost, Dims, FFNConfig, LinearFactory, Role, Scale, linear_cost
from blockzoo.kernels import Slot
from blockzoo.linear import phase_of
from blockzoo_blocks.ffn.activation import ACTIVATION
from blockzoo_blocks.ffn.activations import Activation


class MLPConfig(FFNConfig):
    """Two-matrix feed-forward block.

    YAML: ``ffn: {type: mlp, d_ff: 3072, activation: gelu_tanh, bias: true}``.
    """

    recordable: ClassVar[bool] = True
    label: ClassVar[str] = "Feed-forward"
    stackable: ClassVar[bool] = True
    scales: ClassVar[Mapping[str, Scale]] = {"d_ff": "d_ff"}

    d_ff: PositiveInt = Field(description="inner width", le=2**22)
    activation: Activation = Field("gelu", description="between the two matrices")
    bias: bool = Field(False, description="biases on both matrices")

    @classmethod
    def samples(cls) -> list[MLPConfig]:
        return [cls(d_ff=64), cls(d_ff=48, activation="relu2", bias=True), cls(d_ff=32, activation="gelu_tanh")]

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> MLP:
        return MLP(
            up=linear(dims.d_model, self.d_ff, bias=self.bias),
            down=linear(self.d_ff, dims.d_model, bias=self.bias),
            activation=self.activation,
        )

    def cost(self, dims: Dims) -> Cost:
        up = linear_cost(dims.d_model, self.d_ff, bias=self.bias)
        down = linear_cost(self.d_ff, dims.d_model, bias=self.bias, role=Role.RESIDUAL_OUTPUT)
        return up.under("up") + down.under("down")


class MLP(nn.Module):
    """down(activation(up(x))): (..., D) -> (..., D), no aux. ``which`` goes to every matrix of a stack of experts."""

    def __init__(self, up: nn.Module, down: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.up = up
        self.down = down
        self.activation = activation
        self.slot = Slot(ACTIVATION, activation=activation)

    def forward(self, x: Tensor, *which: object) -> tuple[Tensor, Aux]:
        inner = self.up(x, *which)
        kernel = self.slot[phase_of(inner.numel() // inner.shape[-1])]
        return self.down(kernel(inner, activation=self.activation), *which), {}
