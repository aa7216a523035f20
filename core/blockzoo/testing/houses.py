"""Small models shaped like GPT-2, Qwen3 and gpt-oss, and any block put into the slot of its kind.

A house is what YAML would say; the blocks in it are those that blockzoo ships.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import product
from typing import Any

from blockzoo.blocks import (
    AdditivePositionConfig,
    AttentionPositionConfig,
    BlockConfig,
    MixerConfig,
    NormConfig,
    QuantizerConfig,
)
from blockzoo.config import load_config
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.registry import Registry
from blockzoo.testing.check import CheckSkipped

SIZES = {"vocab_size": 64, "context_length": 64, "d_model": 32}
WIDTH = 32
"""Every width of a house is this or twice this."""
WIDTHS = ("d_model", "d_ff", "head_dim")
WIDEST = 16
HOUSES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {
        **SIZES,
        "embedding": {"tied": True, "position": "learned"},
        "norm": "layer_norm",
        "position": "none",
        "residual": "pre_norm",
        "layers": {
            "count": 2,
            "mixer": {"type": "gqa", "n_heads": 4, "bias": True},
            "ffn": {"type": "mlp", "d_ff": 64, "activation": "gelu_tanh", "bias": True},
        },
    },
    "qwen3": {
        **SIZES,
        "embedding": {"tied": True},
        "norm": {"type": "rms_norm", "scale_in_fp32": False},
        "position": {"type": "rope", "theta": 1000000},
        "residual": "pre_norm",
        "layers": {
            "count": 2,
            "mixer": {"type": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "qk_norm": "rms_norm"},
            "ffn": {"type": "glu", "d_ff": 64},
        },
    },
    "gpt_oss": {
        **SIZES,
        "norm": {"type": "rms_norm", "eps": 1e-5},
        "position": {
            "type": "rope",
            "theta": 150000,
            "scaling": {"type": "yarn", "factor": 4, "original_context_length": 16, "truncate": False},
        },
        "residual": "pre_norm",
        "blocks": {
            "full": {"type": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "bias": True, "sinks": True},
            "sliding": {"use": "full", "window": 5},
            "clamped": {
                "type": "glu",
                "d_ff": 32,
                "bias": True,
                "activation_scale": 1.702,
                "limit": 7.0,
                "up_shift": 1.0,
            },
        },
        "layers": {
            "count": 2,
            "mixer": {"cycle": ["sliding", "full"]},
            "ffn": {
                "type": "moe",
                "n_experts": 4,
                "top_k": 2,
                "router": {"bias": True, "weights": "chosen"},
                "expert": "clamped",
                "quantizer": "mxfp4",
            },
        },
    },
}


class Unfit(CheckSkipped):
    """Why a block can't stand in a house."""


def house(name: str, block: BlockConfig, registry: Registry) -> ModelConfig:
    """One of HOUSES, loaded, as wide as the block needs."""
    return load_config(_said(name, block), registry=registry)


def _said(name: str, block: BlockConfig) -> dict[str, Any]:
    times = times_wider(block) if isinstance(block, QuantizerConfig) else 1
    return {"name": name, **_wider(HOUSES[name], times)}


def times_wider(quantizer: QuantizerConfig) -> int:
    """By how much matrices of WIDTH and twice that must grow for a quantizer to take them; 1 where none helps."""
    sizes = {times: (WIDTH * times, 2 * WIDTH * times) for times in range(1, WIDEST + 1)}
    taken = (times for times, pair in sizes.items() if not any(map(quantizer.refuses, product(pair, pair))))
    return next(taken, 1)


def _wider(said: Any, times: int) -> Any:
    """A copy with every width multiplied."""
    if not isinstance(said, Mapping):
        return copy.deepcopy(said)
    return {key: value * times if key in WIDTHS else _wider(value, times) for key, value in said.items()}


def placed(model: ModelConfig, block: BlockConfig, registry: Registry) -> ModelConfig:
    """The model with this block in every slot of its kind. Raises Unfit with the reason where it doesn't go there."""
    problems = [f"{field}: {message}" for field, message in block.check(model.dims)]
    if isinstance(block, NormConfig) and (reason := block.refuses(model.d_model)):
        problems.append(reason)
    if problems:
        raise Unfit(f"{model.name}: {'; '.join(problems)}")
    if isinstance(block, AdditivePositionConfig):
        return model.model_copy(update={"embedding": model.embedding.model_copy(update={"position": block})})
    layers: dict[int, LayerConfig] = {}  # equal layers stay one object
    for layer in model.layers:
        layers.setdefault(id(layer), _with(layer, block, model, registry))
    changed: dict[str, Any] = {"layers": tuple(layers[id(layer)] for layer in model.layers)}
    if block.kind == "norm":
        changed["head"] = model.head.model_copy(update={"norm": block})
    return model.model_copy(update=changed)


def _with(layer: LayerConfig, block: BlockConfig, model: ModelConfig, registry: Registry) -> LayerConfig:
    if isinstance(block, QuantizerConfig):
        assert layer.mixer is not None
        assert layer.ffn is not None
        packed = {"quantizer": block}
        return layer.model_copy(
            update={"mixer": layer.mixer.model_copy(update=packed), "ffn": layer.ffn.model_copy(update=packed)}
        )
    changed: dict[str, Any] = {block.kind: block}
    if isinstance(block, MixerConfig) and layer.position.form not in block.positions:
        changed["position"] = registry.block("position", "none")()
    new = layer.model_copy(update=changed)
    assert new.mixer is not None
    if isinstance(block, AttentionPositionConfig) and block.form not in new.mixer.positions:
        raise Unfit(f"{model.name}: its mixer takes no position of form {block.form}")
    for reason in new.mixer.check_position(model.dims, new.position):
        raise Unfit(f"{model.name}: {reason}")
    return new


def with_block(block: BlockConfig, said: Mapping[str, Any]) -> dict[str, Any]:
    """The first house as YAML's mapping, with what is ``said`` in the slot of this block's kind."""
    mapping = _said("gpt2", block)
    if isinstance(block, AdditivePositionConfig):
        mapping["embedding"]["position"] = dict(said)
    elif block.kind in ("mixer", "ffn"):
        mapping["layers"][block.kind] = dict(said)
    else:
        mapping[block.kind] = dict(said)
    return mapping
