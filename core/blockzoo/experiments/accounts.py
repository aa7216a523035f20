"""What is exact and known of an arm before anything runs: the account that records and reports hold."""

from __future__ import annotations

from typing import Any

import torch

from blockzoo.accounting import Account, account
from blockzoo.blocks import QuantizerConfig
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import PluginError
from blockzoo.experiments.axes import shape_of, training_flops
from blockzoo.registry import Registry
from blockzoo.training.config import TrainConfig

CONTEXTS = (1024, 8192, 32768, 131072)
"""Where KV bytes are told."""
PACKED = "blocks:mxfp4"


def account_of(model: ModelConfig, train: TrainConfig, context: int, *, registry: Registry) -> dict[str, Any]:
    """The keys of ``ArmRecord.account``; the budget of ``train`` is in steps or tokens."""
    said = account(model, context)
    tokens = train.total_steps * train.tokens_per_step
    return {
        **shape_of(model),
        "parameters": {**said.parameters, "non_embedding": said.non_embedding, **experts_of(said)},
        "flops_per_token": said.flops_per_token,
        "training_flops": training_flops(model, train.block, tokens),
        "tokens": tokens,
        "kv_cache_bytes": {str(n): account(model, n).kv_cache_bytes() for n in CONTEXTS},
        "weight_bytes": {**said.weight_bytes, **_packed(said, registry)},
    }


def experts_of(said: Account) -> dict[str, int]:
    """Parameters of which a token uses a part: all of them, and those that it uses."""
    parts = [p for p in said.cost.parameters.values() if p.active is not None]
    return {"experts": sum(p.numel for p in parts), "experts_active": sum(p.active_numel for p in parts)}


def _packed(said: Account, registry: Registry) -> dict[str, int]:
    """``mxfp4``: bytes with every matrix of mixers and ffns packed and bfloat16 elsewhere, where all of them can be."""
    try:
        quantizer = registry.block("quantizer", PACKED)()
    except PluginError:
        return {}
    assert isinstance(quantizer, QuantizerConfig)
    total = sum(buffer.numel for buffer in said.cost.buffers.values()) * torch.bfloat16.itemsize
    for name, parameter in said.cost.parameters.items():
        if not (parameter.packable and name.startswith("layers.")):
            total += parameter.numel * torch.bfloat16.itemsize
        elif quantizer.refuses(parameter.shape):
            return {}
        else:
            total += sum(tensor.nbytes(torch.bfloat16) for tensor in quantizer.tensors(parameter.shape).values())
    return {"mxfp4": total}
