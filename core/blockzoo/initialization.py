"""How weights are drawn: each parameter from a generator of its own, seeded by (seed, name).

So a weight does not depend on the order of construction, on the device, or on how a model is sharded.
"""

from __future__ import annotations

import hashlib
from math import sqrt

import torch
from torch import Tensor

from blockzoo.blocks import Parameter, Role
from blockzoo.config.schema import ModelConfig

CONSTANT = frozenset({Role.GAIN, Role.BIAS, Role.SINK})
"""Roles that start at one value and draw nothing."""
LAYER_MATRICES = frozenset({Role.HIDDEN, Role.RESIDUAL_OUTPUT, Role.ROUTER})
"""Roles of the matrices inside layers: those whose fan-in grows with the width."""


def draw(config: ModelConfig, name: str, parameter: Parameter, seed: int) -> Tensor:
    """The initial value of one parameter, float32 on the CPU."""
    tensor = torch.empty(parameter.shape, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed_of(seed, name))
    if parameter.init is not None:
        parameter.init(tensor, generator)
    elif parameter.role is Role.GAIN:
        tensor.fill_(1.0)
    elif parameter.role in (Role.BIAS, Role.SINK):
        tensor.zero_()
    else:
        tensor.normal_(0.0, std_of(config, parameter.role), generator=generator)
    return tensor


def std_of(config: ModelConfig, role: Role) -> float:
    """The standard deviation that a matrix of this role is drawn with."""
    init = config.init
    if role is Role.EMBEDDING and init.embedding_std is not None:
        return init.embedding_std
    if role is Role.RESIDUAL_OUTPUT and init.residual_output_std is not None:
        return init.residual_output_std
    std = init.hidden_std if role in LAYER_MATRICES and init.hidden_std is not None else init.std
    if role is Role.RESIDUAL_OUTPUT and init.residual_output == "depth_scaled":
        return std / sqrt(2 * config.n_layers)
    return std


def seed_of(seed: int, name: str) -> int:
    """63 bits from (seed, name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
