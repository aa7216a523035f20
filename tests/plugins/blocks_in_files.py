"""Plugins of one file, as text: one that is right, and what may be wrong with one."""

from __future__ import annotations

RIGHT = '''
"""ScaleNorm: Nguyen & Salazar 2019, arXiv:1910.05895."""

import torch
from pydantic import Field
from torch import nn

from blockzoo.blocks import Cost, NormConfig, Parameter, Role, filled


class ScaleNormConfig(NormConfig):
    """One gain for the whole vector."""

    eps: float = Field(1e-5, gt=0, description="the least length that is divided by")

    def build(self, dim):
        return ScaleNorm(self.eps)

    def cost(self, dim):
        return Cost({"weight": Parameter((1,), Role.GAIN, init=filled(dim**0.5))})


class ScaleNorm(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))
        self.eps = eps

    def forward(self, x):
        length = x.float().norm(dim=-1, keepdim=True).clamp(min=self.eps)
        return (x.float() / length).to(x.dtype) * self.weight


def blockzoo_register(registry):
    registry.block("norm", "scale_norm", ScaleNormConfig)
'''
WRONG_COST = RIGHT.replace("Parameter((1,)", "Parameter((dim,)")
RAISES = RIGHT.replace("length = x", "raise ArithmeticError('no length')\n        length = x")


ONE_NUMBER = '''"""A norm whose gain is one number: a parameter without an axis."""

import torch
from torch import nn

from blockzoo.blocks import Cost, NormConfig, Parameter, Role, filled


class OneNumberConfig(NormConfig):
    """A vector of length g. YAML: ``norm: one_number``."""

    def build(self, dim):
        return OneNumber()

    def cost(self, dim):
        return Cost({"g": Parameter((), Role.GAIN, init=filled(dim**0.5))})


class OneNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.empty(()))

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (self.g * wide / wide.norm(dim=-1, keepdim=True).clamp(min=1e-5)).to(x.dtype)


def blockzoo_register(registry):
    registry.block("norm", "one_number", OneNumberConfig)
'''
