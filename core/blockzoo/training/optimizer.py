"""AdamW with groups from the roles of parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from blockzoo.accounting import parameters_of
from blockzoo.blocks import Parameter, Role
from blockzoo.config.schema import ModelConfig
from blockzoo.training.config import OptimizerConfig

DECAYED = frozenset({Role.EMBEDDING, Role.HIDDEN, Role.RESIDUAL_OUTPUT, Role.OUTPUT, Role.ROUTER})
"""All matrices, embeddings too, as GPT-2's and GPT-3's recipe has it; gains, biases, sinks and the rest never decay."""


def decayed(roles: Mapping[str, Parameter]) -> dict[str, bool]:
    """Parameter name -> whether its weight decays."""
    return {name: parameter.role in DECAYED for name, parameter in roles.items()}


def named_parameters(model: nn.Module, config: ModelConfig) -> dict[str, nn.Parameter]:
    """The model's parameters, in the order in which the config lists them."""
    found = dict(model.named_parameters())
    roles = parameters_of(config)
    assert found.keys() == roles.keys(), f"config and model disagree: {sorted(found.keys() ^ roles.keys())}"
    return {name: found[name] for name in roles}


def make_optimizer(model: nn.Module, config: ModelConfig, settings: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the model's parameters: one group that decays, one that does not."""
    parameters = named_parameters(model, config)
    decays = decayed(parameters_of(config))
    groups = [
        {"params": [p for name, p in parameters.items() if decays[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in parameters.items() if not decays[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        # one pass over the weights; torch has it for these devices
        fused=all(p.device.type in ("cpu", "cuda") for p in parameters.values()),
    )
