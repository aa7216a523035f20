"""The three small architectures that blocks are put in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from blockzoo.building import empty
from blockzoo.config import load_config
from blockzoo.kernels import Slot
from blockzoo.linear import LINEAR
from blockzoo.registry import Registry

D_MODEL, N_LAYERS, CONTEXT = 64, 2, 64


@dataclass(frozen=True)
class Architecture:
    """A shipped model made small. ``attention`` and ``ffn``: its names for a mixer and an ffn."""

    name: str
    base: str
    attention: str
    ffn: str
    overrides: Mapping[str, Any]


_SMALL = {"family": None, "vocab_size": 256, "context_length": CONTEXT, "d_model": D_MODEL, "layers.count": N_LAYERS}
ARCHITECTURES = (
    Architecture(
        "gpt2",
        "gpt2",
        "attention",
        "dense",
        _SMALL
        | {"blocks.attention.n_heads": 4, "blocks.attention.dropout": 0.0, "blocks.dense.d_ff": 4 * D_MODEL}
        | {"embedding.dropout": 0.0, "residual.dropout": 0.0},
    ),
    Architecture(
        "qwen3",
        "qwen3-0.6b",
        "attention",
        "dense",
        _SMALL
        | {"blocks.attention.n_heads": 4, "blocks.attention.n_kv_heads": 2, "blocks.attention.head_dim": 16}
        | {"blocks.dense.d_ff": 3 * D_MODEL},
    ),
    Architecture(
        "gpt_oss",
        "gpt-oss-20b",
        "full",
        "experts",
        _SMALL
        | {"blocks.full.n_heads": 4, "blocks.full.n_kv_heads": 2, "blocks.full.head_dim": 16}
        | {"blocks.sliding.window": 16, "blocks.gate.d_ff": D_MODEL, "position.scaling": None}
        | {"blocks.experts.n_experts": 4, "blocks.experts.top_k": 2, "blocks.experts.quantizer": None},
    ),
)


def stock(architecture: Architecture, registry: Registry) -> nn.Module:
    """The stock model. No weight is allocated."""
    config = load_config(architecture.base, architecture.overrides, registry=registry)
    return empty(config, registry=registry, device="meta")


def ops_of(architecture: Architecture, registry: Registry) -> set[str]:
    """The ops that the stock model uses: it has no place for a kernel of another."""
    modules = stock(architecture, registry).modules()
    return {LINEAR.name, *(module.op.name for module in modules if isinstance(module, Slot))}
