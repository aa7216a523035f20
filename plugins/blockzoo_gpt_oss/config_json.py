"""config.json of the layout on the model hub, in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.checkpoints.family import expect
from blockzoo.config.schema import ModelConfig
from blockzoo_blocks.ffn.glu import GLUConfig
from blockzoo_blocks.ffn.moe import MoEConfig
from blockzoo_blocks.mixers.gqa import GQAConfig
from blockzoo_blocks.norms.rms_norm import RMSNormConfig
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_json import read_rope, write_rope
from blockzoo_gpt_oss.architecture import ACTIVATION_SCALE, LIMIT, architecture

FULL, SLIDING = "full_attention", "sliding_attention"
THETA = 150000.0
YARN = {  # what the published class takes where a file says nothing about rope
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
NOT_PACKED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
HARMLESS = frozenset({"initial_context_length", "experts_per_token", "quantization_config.modules_to_not_convert"})
"""What others say: the scaling of rope, a twin that the published class doesn't heed, and the names of the weights."""
STOPS, PAD = [200002, 199999, 200012], 199999


def read_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json -> what YAML would say. Absent keys mean what the published class takes."""
    if not values.get("rope_scaling") and values.get("rope_parameters") is None:  # an empty object says nothing
        values = {**values, "rope_scaling": YARN}
    keys = ConfigJSON(values)
    keys.must_be("hidden_act", "silu")
    count = keys.integer("num_hidden_layers", default=36, most=10_000)
    context_length = keys.integer("max_position_embeddings", default=131072)
    keys.raw("initial_context_length")  # the scaling of rope says it again
    heads = keys.integer("num_attention_heads", default=64)
    d_model = keys.integer("hidden_size", default=2880)
    kinds = keys.names("layer_types", count, (FULL, SLIDING))
    slides = [index % 2 == 0 for index in range(count)] if kinds is None else [kind == SLIDING for kind in kinds]
    if any(slides) and values.get("sliding_window", 128) is None:
        keys.fail("sliding_window", "is null, but there are sliding layers")
    config = architecture(
        sizes={
            "vocab_size": keys.integer("vocab_size", default=201088),
            "context_length": context_length,
            "d_model": d_model,
        },
        mixer={
            "n_heads": heads,
            "n_kv_heads": keys.integer("num_key_value_heads", default=heads if "num_key_value_heads" in values else 8),
            "head_dim": keys.integer("head_dim", default=max(1, d_model // heads) if "head_dim" in values else 64),
            "bias": keys.flag("attention_bias", default=True),
            "dropout": keys.number("attention_dropout", default=0.0),
        },
        window=keys.integer("sliding_window", default=128),
        slides=slides,
        position=read_rope(keys, context_length, default_theta=THETA),
        experts={
            "n_experts": keys.integer("num_local_experts", "num_experts", default=128),
            "top_k": keys.integer("num_experts_per_tok", default=4),
        },
        d_ff=keys.integer("intermediate_size", default=2880),
        activation_scale=keys.number("swiglu_alpha", default=ACTIVATION_SCALE),
        limit=keys.number("swiglu_limit", default=LIMIT),
        packed=_read_packed(keys),
        eps=keys.number("rms_norm_eps", default=1e-5),
        tied=keys.flag("tie_word_embeddings", default=False),
        std=keys.number("initializer_range", default=0.02),
    )
    keys.raw("experts_per_token")  # an old twin of num_experts_per_tok that the published class does not heed
    keys.finish()
    return config


def _read_packed(keys: ConfigJSON) -> bool:
    """Whether the experts are stored as MXFP4; the weights' names must agree, or they are missing."""
    quantization = keys.mapping("quantization_config")
    if quantization is None:
        return False
    quantization.choice("quant_method", {"mxfp4": "mxfp4"})
    left = quantization.raw("modules_to_not_convert", default=[])
    if not isinstance(left, list) or any("experts" in str(module) for module in left):
        quantization.fail("modules_to_not_convert", "must be a list without experts; all experts are packed alike")
    quantization.raw("dequantize")  # how transformers was asked to read it, not how it is stored
    quantization.finish()
    return True


def write_config(config: ModelConfig) -> dict[str, Any]:
    mixers = [expect(layer.mixer, GQAConfig, "mixer") for layer in config.layers]
    moe = expect(config.layers[0].ffn, MoEConfig, "ffn")
    expert = expect(moe.expert, GLUConfig, "expert")
    norm = expect(config.layers[0].norm, RMSNormConfig, "norm")
    position = expect(config.layers[0].position, RopeConfig, "position")
    window = next((mixer.window for mixer in mixers if mixer.window is not None), None)
    quantization = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": NOT_PACKED}}
    stops = {"eos_token_id": STOPS, "pad_token_id": PAD} if config.vocab_size > max(STOPS) else {}
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": expert.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixers[0].n_heads,
        "num_key_value_heads": mixers[0].kv_heads(),
        "head_dim": mixers[0].width(config.dims),
        "attention_bias": mixers[0].bias not in (False, ()),
        "attention_dropout": mixers[0].dropout,
        "sliding_window": 128 if window is None else window,
        "layer_types": [FULL if mixer.window is None else SLIDING for mixer in mixers],
        "num_local_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k,
        "experts_per_token": moe.top_k,
        "swiglu_alpha": expert.activation_scale,
        "swiglu_limit": expert.limit,
        "hidden_act": expert.activation,
        "rms_norm_eps": norm.eps,
        "initializer_range": config.init.std,
        "tie_word_embeddings": config.embedding.tied,
        **write_rope(position),
        **({} if moe.quantizer is None else quantization),
        **stops,
    }
