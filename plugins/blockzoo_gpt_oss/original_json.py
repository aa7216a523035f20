"""config.json of the original layout, in both directions.

It has no model_type; norms, sinks and activation go without saying.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.checkpoints.family import expect
from blockzoo.config.schema import ModelConfig
from blockzoo_blocks.ffn.glu import GLUConfig
from blockzoo_blocks.ffn.moe import MoEConfig
from blockzoo_blocks.mixers.gqa import GQAConfig
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_scaling import YarnScaling
from blockzoo_gpt_oss.architecture import ACTIVATION_SCALE, LIMIT, architecture

MARKS = ("num_experts", "experts_per_token", "initial_context_length", "rope_ntk_alpha")


def recognizes(values: Mapping[str, Any]) -> bool:
    return "model_type" not in values and all(mark in values for mark in MARKS)


def read_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json -> what YAML would say. The context is the initial one times the scaling factor."""
    keys = ConfigJSON(values)
    count = keys.integer("num_hidden_layers", most=10_000)
    initial = keys.integer("initial_context_length")
    factor = keys.number("rope_scaling_factor", default=1.0, least=1)
    window = keys.integer("sliding_window", least=0)
    yarn = {
        "type": "yarn",
        "factor": factor,
        "beta_fast": keys.number("rope_ntk_beta", default=32.0),
        "beta_slow": keys.number("rope_ntk_alpha", default=1.0),
        "original_context_length": initial,
        "truncate": False,
    }
    config = architecture(
        sizes={
            "vocab_size": keys.integer("vocab_size"),
            "context_length": int(initial * factor),
            "d_model": keys.integer("hidden_size"),
        },
        mixer={
            "n_heads": keys.integer("num_attention_heads"),
            "n_kv_heads": keys.integer("num_key_value_heads"),
            "head_dim": keys.integer("head_dim"),
            "bias": True,
        },
        window=window,
        slides=[window > 0 and index % 2 == 0 for index in range(count)],
        position={"type": "rope", "theta": keys.number("rope_theta"), "scaling": yarn if factor > 1 else None},
        experts={"n_experts": keys.integer("num_experts"), "top_k": keys.integer("experts_per_token")},
        d_ff=keys.integer("intermediate_size"),
        activation_scale=ACTIVATION_SCALE,
        limit=keys.number("swiglu_limit", default=LIMIT),
        packed=True,
    )
    keys.finish()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    mixer = expect(config.layers[0].mixer, GQAConfig, "mixer")
    moe = expect(config.layers[0].ffn, MoEConfig, "ffn")
    expert = expect(moe.expert, GLUConfig, "expert")
    position = expect(config.layers[0].position, RopeConfig, "position")
    yarn = position.scaling if isinstance(position.scaling, YarnScaling) else None
    return {
        "num_hidden_layers": config.n_layers,
        "num_experts": moe.n_experts,
        "experts_per_token": moe.top_k,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": expert.d_ff,
        "swiglu_limit": expert.limit,
        "head_dim": mixer.width(config.dims),
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.kv_heads(),
        "sliding_window": mixer.window or 0,
        "initial_context_length": config.context_length if yarn is None else yarn.original_context_length,
        "rope_theta": position.theta,
        "rope_scaling_factor": 1.0 if yarn is None else yarn.factor,
        "rope_ntk_alpha": 1.0 if yarn is None else yarn.beta_slow,
        "rope_ntk_beta": 32.0 if yarn is None else yarn.beta_fast,
    }
