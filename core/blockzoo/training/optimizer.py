"""AdamW with groups from the roles of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from blockzoo.accounting import parameters_of
from blockzoo.blocks import Parameter, Role
from blockzoo.config.schema import ModelConfig
from blockzoo.training.config import CompletePConfig, OptimizerConfig
from blockzoo.training.parametrization import factors_of

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


def make_optimizer(
    model: nn.Module, config: ModelConfig, settings: OptimizerConfig, parametrization: CompletePConfig | None = None
) -> torch.optim.AdamW:
    """AdamW over the model's parameters, a group for each setting: one that decays and one that does not, and under
    CompleteP one for each factor.

    A group's ``lr_factor`` is for whoever sets its rate: lr times the schedule times it.
    """
    parameters = named_parameters(model, config)
    decays, factors = decayed(parameters_of(config)), factors_of(config, parametrization)
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        factor = factors[name]
        decay = settings.weight_decay * factor.weight_decay if decays[name] else 0.0
        eps = settings.eps * factor.eps
        new = {
            "params": [],
            "lr": settings.lr * factor.lr,
            "lr_factor": factor.lr,
            "weight_decay": decay,
            "eps": eps,
        }
        groups.setdefault((factor.lr, decay, eps), new)["params"].append(parameter)
    return torch.optim.AdamW(
        list(groups.values()),
        lr=settings.lr,
        betas=settings.betas,
        # one pass over the weights; torch has it for these devices
        fused=all(p.device.type in ("cpu", "cuda") for p in parameters.values()),
    )
