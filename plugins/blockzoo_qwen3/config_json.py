"""Qwen3's config.json in both directions, dense (``qwen3``) and mixture of experts (``qwen3_moe``).

What an absent key means differs between the two: head_dim is 128 for dense models and d_model / heads for the others.
``norm_topk_prob`` is false where a file does not say it, though every published file says true.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.checkpoints.family import expect
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.errors import CheckpointError
from blockzoo_blocks.ffn.glu import GLUConfig
from blockzoo_blocks.ffn.moe import MoEConfig
from blockzoo_blocks.mixers.gqa import GQAConfig
from blockzoo_blocks.norms.rms_norm import RMSNormConfig
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_json import read_rope, write_rope
from blockzoo_qwen3.tokenizer import END_OF_TEXT, IM_END

DENSE, SPARSE = "qwen3", "qwen3_moe"
MODEL_TYPES = (DENSE, SPARSE)
FULL, SLIDING = "full_attention", "sliding_attention"
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
WRITTEN_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def read_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json -> what YAML would say. Absent keys mean what the published classes take."""
    keys = ConfigJSON(values)
    sparse = values.get("model_type") == SPARSE
    keys.must_be("qkv_bias", False)
    keys.must_be("use_qk_norm", True)
    keys.must_be("shared_expert_intermediate_size", 0)
    d_model = keys.integer("hidden_size", default=2048 if sparse else 4096)
    count = keys.integer("num_hidden_layers", default=24 if sparse else 32, most=10_000)
    context_length = keys.integer("max_position_embeddings", default=32768)
    heads = keys.integer("num_attention_heads", default=32)
    norm = {
        "type": "rms_norm",
        "eps": keys.number("rms_norm_eps", default=1e-6),
        "scale_in_fp32": False,  # normalise, cast, then multiply
    }
    full = {
        "type": "gqa",
        "n_heads": heads,
        "n_kv_heads": keys.integer("num_key_value_heads", default=_kv_heads(values, heads)),
        "head_dim": keys.integer("head_dim", default=max(1, d_model // heads) if sparse else 128),
        "bias": keys.flag("attention_bias", default=False),
        "dropout": keys.number("attention_dropout", default=0.0),
        "qk_norm": norm,
    }
    window, slides = _read_windows(keys, count, sparse)
    ffns, is_sparse = _read_ffns(keys, count, sparse)
    config = {
        "family": "qwen3",
        "vocab_size": keys.integer("vocab_size", default=151936),
        "context_length": context_length,
        "d_model": d_model,
        "embedding": {"tied": keys.flag("tie_word_embeddings", default=False)},
        "norm": norm,
        "position": read_rope(keys, context_length, default_theta=10000.0),
        "residual": {"type": "pre_norm"},
        "init": {"std": keys.number("initializer_range", default=0.02)},
        "blocks": {"full": full, **({"sliding": {"use": "full", "window": window}} if any(slides) else {}), **ffns},
        "layers": {
            "count": count,
            "mixer": {"list": ["sliding" if slide else "full" for slide in slides]} if any(slides) else "full",
            "ffn": {"list": ["experts" if s else "dense" for s in is_sparse]},
        },
    }
    keys.finish()
    return config


def _kv_heads(values: Mapping[str, Any], heads: int) -> int:
    """What an absent count of key and value heads means; null means as many as heads."""
    if "num_key_value_heads" in values:
        return heads
    return 4 if values.get("model_type") == SPARSE else 32


def _read_windows(keys: ConfigJSON, count: int, sparse: bool) -> tuple[int | None, list[bool]]:
    """The window and which layers have it: a window counts only with ``use_sliding_window``.

    A sparse model has it on every layer: transformers reads ``max_window_layers`` and ``layer_types`` for dense
    models only.
    """
    used = keys.flag("use_sliding_window", default=False)
    window = keys.integer("sliding_window", default=4096)
    unbounded = keys.is_null("sliding_window")  # transformers: no window at all, where a key left out is 4096
    first = keys.integer("max_window_layers", default=28, least=0)
    kinds = keys.names("layer_types", count, (FULL, SLIDING))
    if not used and kinds is not None and SLIDING in kinds:
        keys.fail("layer_types", "has sliding layers, but use_sliding_window is not true")
    if not used or unbounded:
        return None, [False] * count
    if sparse:
        return window, [True] * count
    return window, [kind == SLIDING for kind in kinds] if kinds is not None else [i >= first for i in range(count)]


def _read_ffns(keys: ConfigJSON, count: int, sparse: bool) -> tuple[dict[str, Any], list[bool]]:
    """The ffn blocks that are used, and which layers are sparse."""
    activation = keys.choice("hidden_act", ACTIVATIONS, default="silu")
    width = keys.integer("intermediate_size", default=6144 if sparse else 22016)
    dense = {"type": "glu", "d_ff": width, "activation": activation}
    if not sparse:
        return {"dense": dense}, [False] * count
    experts = {
        "type": "moe",
        "n_experts": keys.integer("num_experts", "num_local_experts", default=128),
        "top_k": keys.integer("num_experts_per_tok", default=8),
        "router": {"weights": "all_renormalized" if keys.flag("norm_topk_prob", default=False) else "all"},
        "expert": {"type": "glu", "d_ff": keys.integer("moe_intermediate_size", default=768), "activation": activation},
    }
    step = keys.integer("decoder_sparse_step", default=1)
    plain = keys.raw("mlp_only_layers", default=[])
    if not isinstance(plain, list) or not all(type(index) is int for index in plain):
        keys.fail("mlp_only_layers", "must be a list of layer numbers")
    is_sparse = [index not in plain and (index + 1) % step == 0 for index in range(count)]
    both = {"dense": dense, "experts": experts}
    return {name: both[name] for name in both if (name == "experts") in is_sparse}, is_sparse


def write_config(config: ModelConfig) -> dict[str, Any]:
    sparse = any(isinstance(layer.ffn, MoEConfig) for layer in config.layers)
    mixers = [expect(layer.mixer, GQAConfig, "mixer") for layer in config.layers]
    mixer, norm = mixers[0], expect(config.layers[0].norm, RMSNormConfig, "norm")
    windows = [mixer.window for mixer in mixers]
    window = next((w for w in windows if w is not None), None)
    return {
        "architectures": ["Qwen3MoeForCausalLM" if sparse else "Qwen3ForCausalLM"],
        "model_type": SPARSE if sparse else DENSE,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.kv_heads(),
        "head_dim": mixer.width(config.dims),
        "attention_bias": mixer.bias not in (False, ()),
        "attention_dropout": mixer.dropout,
        "rms_norm_eps": norm.eps,
        "initializer_range": config.init.std,
        "tie_word_embeddings": config.embedding.tied,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        **_write_windows(windows, sparse),
        **_write_ffns(config.layers),
        **write_rope(expect(config.layers[0].position, RopeConfig, "position")),
        "use_cache": True,
        **({"bos_token_id": END_OF_TEXT, "eos_token_id": IM_END} if config.vocab_size > IM_END else {}),
    }


def _write_windows(windows: list[int | None], sparse: bool) -> dict[str, Any]:
    if sparse:
        if None in windows and any(windows):
            raise CheckpointError("a qwen3_moe config.json can't say a window on only some of the layers")
        return {"max_window_layers": 0 if any(windows) else len(windows)}
    kinds = [FULL if window is None else SLIDING for window in windows]
    first = kinds.index(SLIDING) if SLIDING in kinds else len(kinds)
    return {"max_window_layers": first, "layer_types": kinds}


def _write_ffns(layers: tuple[LayerConfig, ...]) -> dict[str, Any]:
    dense = [index for index, layer in enumerate(layers) if not isinstance(layer.ffn, MoEConfig)]
    plain = expect(layers[dense[0]].ffn, GLUConfig, "ffn") if dense else None
    if len(dense) == len(layers):
        assert plain is not None
        return {"intermediate_size": plain.d_ff, "hidden_act": WRITTEN_ACTIVATIONS[plain.activation]}
    moe = next(layer.ffn for layer in layers if isinstance(layer.ffn, MoEConfig))
    expert = expect(moe.expert, GLUConfig, "expert")
    return {
        "intermediate_size": 4 * expert.d_ff if plain is None else plain.d_ff,
        "moe_intermediate_size": expert.d_ff,
        "hidden_act": WRITTEN_ACTIVATIONS[expert.activation],
        "num_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k,
        "norm_topk_prob": moe.router.weights == "all_renormalized",
        "decoder_sparse_step": 1,
        "mlp_only_layers": dense,
    }
