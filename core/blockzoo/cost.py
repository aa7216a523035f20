"""What a block costs, exact before anything is built: parameters with roles, FLOPs, cache tensors, buffers.

Accounting, initialization, optimizer groups, quantization and the checks of checkpoints all read this one description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod

import torch
from torch import Tensor


class Role(StrEnum):
    """What a parameter is for. Roles decide initialization, weight decay, learning-rate transfer and quantization.

    HIDDEN and RESIDUAL_OUTPUT are the weights of ``nn.Linear`` and ``ExpertLinear``, and may be packed.
    """

    EMBEDDING = "embedding"
    HIDDEN = "hidden"  # a matrix from features to features
    RESIDUAL_OUTPUT = "residual_output"  # the matrix whose output is added to the residual stream
    OUTPUT = "output"  # the unembedding
    GAIN = "gain"
    BIAS = "bias"
    ROUTER = "router"
    SINK = "sink"
    OTHER = "other"


Initializer = Callable[[Tensor, torch.Generator], object]
"""Fills a float32 tensor on the CPU, drawing only from the generator."""


@dataclass(frozen=True)
class Parameter:
    """One parameter before it exists. ``active``: how many of its elements one token uses (default: all).

    ``init`` overrides what the role would get: gains 1, biases and sinks 0, everything else N(0, std) with the model's
    ``init.std``, which suits matrices: a role OTHER (a filter, a decay) nearly always wants an ``init`` of its own.
    """

    shape: tuple[int, ...]
    role: Role
    active: int | None = None
    init: Initializer | None = None

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def packable(self) -> bool:
        """Whether a quantizer may store it: matrices of mixers and ffns; never a router, norm, sink or bias."""
        return self.role in (Role.HIDDEN, Role.RESIDUAL_OUTPUT) and len(self.shape) > 1

    @property
    def active_numel(self) -> int:
        return self.numel if self.active is None else self.active


def filled(value: float) -> Initializer:
    """An initializer that fills with a constant."""
    return lambda tensor, generator: tensor.fill_(value)


@dataclass(frozen=True)
class StateTensor:
    """One tensor of a mixer's cache for one sequence. ``dtype`` None: the cache's own."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def nbytes(self, cache_dtype: torch.dtype) -> int:
        return prod(self.shape) * (self.dtype or cache_dtype).itemsize


@dataclass(frozen=True)
class Cost:
    """What a block costs, exact before anything is built.

    ``parameters``: name in the module's state dict -> Parameter. ``flops``: forward, one token decoded at the context
    asked about, two for each multiply-add of a matrix product (elementwise work is not counted). ``cache``: the
    tensors that its state holds for one sequence at that context. ``buffers``: tensors of the state dict that no
    optimizer sees; every buffer of the module must stand here, because modules are built on the meta device and
    filled afterwards.
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    flops: int = 0
    cache: tuple[StateTensor, ...] = ()
    buffers: Mapping[str, Parameter] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            {**self.parameters, **other.parameters},
            self.flops + other.flops,
            self.cache + other.cache,
            {**self.buffers, **other.buffers},
        )

    def under(self, name: str) -> Cost:
        """The same cost as a submodule called ``name``."""
        return Cost(
            {f"{name}.{key}": parameter for key, parameter in self.parameters.items()},
            self.flops,
            self.cache,
            {f"{name}.{key}": buffer for key, buffer in self.buffers.items()},
        )


def linear_cost(d_in: int, d_out: int, *, bias: bool, role: Role = Role.HIDDEN) -> Cost:
    """The cost of an ``nn.Linear``."""
    parameters = {"weight": Parameter((d_out, d_in), role)}
    if bias:
        parameters["bias"] = Parameter((d_out,), Role.BIAS)
    return Cost(parameters, flops=2 * d_in * d_out)
