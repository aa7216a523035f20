"""GPT-NeoX, BLOOM and Falcon, whose files hold q, k and v of one head (or of heads with one key) side by side.

As small as a family may be: without dropout, one spelling of each key but of rope's. GPT-NeoX's key map is the example
in docs/plugin-authors/family-reference.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.checkpoints.family import Family, Layout, Sample, expect
from blockzoo.checkpoints.keymap import KeyMap, Rule, same
from blockzoo.config.schema import ModelConfig
from blockzoo_blocks.ffn.mlp import MLPConfig
from blockzoo_blocks.mixers.gqa import GQAConfig
from blockzoo_blocks.norms.layer_norm import LayerNormConfig
from blockzoo_blocks.positions.alibi import AlibiConfig
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_json import read_rope, write_rope
from blockzoo_blocks.residuals.parallel import ParallelConfig

OURS = "layers.{layer}."


def renamed(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple(same(f"{theirs}.{leaf}", f"{ours}.{leaf}") for leaf in ("weight", "bias"))


def fused(stored: str) -> tuple[Rule, ...]:
    parts = {leaf: tuple(f"{OURS}mixer.{part}.{leaf}" for part in "qkv") for leaf in ("weight", "bias")}
    return (
        Rule(f"{stored}.weight", parts["weight"], axis=-2, groups="n_kv_heads"),
        Rule(f"{stored}.bias", parts["bias"], groups="n_kv_heads"),
    )


def mlp(here: str) -> tuple[Rule, ...]:
    return (
        *renamed(f"{here}dense_h_to_4h", f"{OURS}ffn.up"),
        *renamed(f"{here}dense_4h_to_h", f"{OURS}ffn.down"),
    )


def of_type(name: str) -> Any:
    return lambda values: values.get("model_type") == name


# GPT-NeoX: Black et al. 2022, arXiv:2204.06745; Pythia.

NEOX = "gpt_neox.layers.{layer}."
NEOX_KEYS = KeyMap(
    rules=(
        same("gpt_neox.embed_in.weight", "embedding.tokens.weight"),
        *renamed(NEOX + "input_layernorm", OURS + "mixer_norm"),
        *fused(NEOX + "attention.query_key_value"),
        *renamed(NEOX + "attention.dense", OURS + "mixer.o"),
        *renamed(NEOX + "post_attention_layernorm", OURS + "ffn_norm"),
        *mlp(NEOX + "mlp."),
        *renamed("gpt_neox.final_layer_norm", "head.norm"),
        same("embed_out.weight", "head.unembedding.weight"),
    ),
    weightless=tuple(NEOX + f"attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")),
)
ROPE_KEYS = {"fraction_key": "rotary_pct", "theta_key": "rotary_emb_base"}


def read_neox(values: Mapping[str, Any]) -> dict[str, Any]:
    keys = ConfigJSON(values)
    for name in ("attention_dropout", "hidden_dropout"):
        keys.must_be(name, 0.0, 0)
    keys.must_be("hidden_act", "gelu")
    keys.must_be("attention_bias", True)
    keys.must_be("tie_word_embeddings", False)
    keys.raw("classifier_dropout"), keys.raw("is_decoder")
    context = keys.integer("max_position_embeddings", default=2048)
    parallel = keys.flag("use_parallel_residual", default=True)
    config = {
        "family": "neox",
        "vocab_size": keys.integer("vocab_size"),
        "context_length": context,
        "d_model": keys.integer("hidden_size"),
        "norm": {"type": "layer_norm", "eps": keys.number("layer_norm_eps", default=1e-5)},
        "position": read_rope(keys, context, 10000.0, default_fraction=0.25, **ROPE_KEYS),
        "residual": {"type": "parallel", "shared_norm": False} if parallel else "pre_norm",
        "layers": {
            "count": keys.integer("num_hidden_layers"),
            "mixer": {"type": "gqa", "n_heads": keys.integer("num_attention_heads"), "bias": True},
            "ffn": {"type": "mlp", "d_ff": keys.integer("intermediate_size"), "activation": "gelu", "bias": True},
        },
    }
    keys.finish()
    return config


def write_neox(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": expect(layer.mixer, GQAConfig, "mixer").n_heads,
        "intermediate_size": expect(layer.ffn, MLPConfig, "ffn").d_ff,
        "layer_norm_eps": expect(layer.norm, LayerNormConfig, "norm").eps,
        "use_parallel_residual": isinstance(layer.residual, ParallelConfig),
        **write_rope(expect(layer.position, RopeConfig, "position"), **ROPE_KEYS),
    }


NEOX_TINY = {
    "model_type": "gpt_neox",
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "rotary_pct": 0.5,
    "rotary_emb_base": 5000.0,
}
NEOX_FAMILY = Family(
    "neox",
    {
        "hf": Layout(
            NEOX_KEYS,
            of_type("gpt_neox"),
            read_neox,
            write_neox,
            samples=(Sample(NEOX_TINY), Sample({**NEOX_TINY, "use_parallel_residual": False})),
            harmless=frozenset({"classifier_dropout", "is_decoder"}),
        )
    },
    tokenizer="bytes",
)


# BLOOM: BigScience 2022, arXiv:2211.05100.

BLOOM = "{prefix}h.{layer}."
BLOOM_KEYS = KeyMap(
    prefixes=("transformer.", ""),
    rules=(
        same("{prefix}word_embeddings.weight", "embedding.tokens.weight"),
        *renamed("{prefix}word_embeddings_layernorm", "embedding.norm"),
        *renamed(BLOOM + "input_layernorm", OURS + "mixer_norm"),
        *fused(BLOOM + "self_attention.query_key_value"),
        *renamed(BLOOM + "self_attention.dense", OURS + "mixer.o"),
        *renamed(BLOOM + "post_attention_layernorm", OURS + "ffn_norm"),
        *mlp(BLOOM + "mlp."),
        *renamed("{prefix}ln_f", "head.norm"),
    ),
    copies={"lm_head.weight": "{prefix}word_embeddings.weight"},
)


def read_bloom(values: Mapping[str, Any]) -> dict[str, Any]:
    keys = ConfigJSON(values)
    for name in ("attention_dropout", "hidden_dropout"):
        keys.must_be(name, 0.0, 0)
    for name in ("apply_residual_connection_post_layernorm", "slow_but_exact"):
        keys.must_be(name, False)
    keys.must_be("tie_word_embeddings", True)
    d_model = keys.integer("n_embed", "hidden_size")
    norm = {"type": "layer_norm", "eps": keys.number("layer_norm_epsilon", default=1e-5)}
    config = {
        "family": "bloom",
        "vocab_size": keys.integer("vocab_size"),
        "context_length": keys.integer("seq_length", default=2048),
        "d_model": d_model,
        "embedding": {"tied": True, "norm": norm},
        "norm": norm,
        "position": "alibi",
        "layers": {
            "count": keys.integer("n_layer", "num_hidden_layers"),
            "mixer": {"type": "gqa", "n_heads": keys.integer("n_head", "num_attention_heads"), "bias": True},
            "ffn": {"type": "mlp", "d_ff": 4 * d_model, "activation": "gelu_tanh", "bias": True},
        },
    }
    keys.finish()
    return config


def write_bloom(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    expect(layer.position, AlibiConfig, "position")
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": config.vocab_size,
        "seq_length": config.context_length,
        "hidden_size": config.d_model,
        "n_layer": config.n_layers,
        "n_head": expect(layer.mixer, GQAConfig, "mixer").n_heads,
        "layer_norm_epsilon": expect(layer.norm, LayerNormConfig, "norm").eps,
    }


BLOOM_TINY = {
    "model_type": "bloom",
    "vocab_size": 97,
    "seq_length": 64,
    "hidden_size": 48,
    "n_layer": 2,
    "n_head": 3,
}
BLOOM_FAMILY = Family(
    "bloom",
    {"hf": Layout(BLOOM_KEYS, of_type("bloom"), read_bloom, write_bloom, samples=(Sample(BLOOM_TINY),))},
    tokenizer="bytes",
)


# Falcon: Almazrouei et al. 2023, arXiv:2311.16867. Its 40B has several queries to a key, 7B one key, rw a key a query.

FALCON = "transformer.h.{layer}."
FALCON_KEYS = KeyMap(
    rules=(
        same("transformer.word_embeddings.weight", "embedding.tokens.weight"),
        *renamed(FALCON + "ln_attn", OURS + "mixer_norm"),
        *renamed(FALCON + "ln_mlp", OURS + "ffn_norm"),
        *renamed(FALCON + "input_layernorm", OURS + "norm"),
        *fused(FALCON + "self_attention.query_key_value"),
        *renamed(FALCON + "self_attention.dense", OURS + "mixer.o"),
        *mlp(FALCON + "mlp."),
        *renamed("transformer.ln_f", "head.norm"),
    ),
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
)


def read_falcon(values: Mapping[str, Any]) -> dict[str, Any]:
    keys = ConfigJSON(values)
    for name in ("attention_dropout", "hidden_dropout"):
        keys.must_be(name, 0.0, 0)
    for name in ("parallel_attn", "tie_word_embeddings"):
        keys.must_be(name, True)
    keys.must_be("alibi", False)
    keys.must_be("activation", "gelu")
    context = keys.integer("max_position_embeddings", default=2048)
    d_model, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads", "n_head")
    bias = keys.flag("bias", default=False)
    new = keys.flag("new_decoder_architecture", default=False)
    grouped, one = keys.integer("num_kv_heads", "n_head_kv", default=heads), keys.flag("multi_query", default=True)
    two_norms = keys.integer("num_ln_in_parallel_attn", default=1 + new) == 2
    config = {
        "family": "falcon",
        "vocab_size": keys.integer("vocab_size"),
        "context_length": context,
        "d_model": d_model,
        "embedding": {"tied": True},
        "norm": {"type": "layer_norm", "eps": keys.number("layer_norm_epsilon", default=1e-5)},
        "position": read_rope(keys, context, 10000.0),
        "residual": {"type": "parallel", "shared_norm": not two_norms},
        "layers": {
            "count": keys.integer("num_hidden_layers", "n_layer"),
            "mixer": {
                "type": "gqa",
                "n_heads": heads,
                "n_kv_heads": grouped if new else 1 if one else heads,
                "bias": bias,
            },
            "ffn": {
                "type": "mlp",
                "d_ff": keys.integer("ffn_hidden_size", default=4 * d_model),
                "activation": "gelu",
                "bias": bias,
            },
        },
    }
    keys.finish()
    return config


def write_falcon(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    mixer, ffn = expect(layer.mixer, GQAConfig, "mixer"), expect(layer.ffn, MLPConfig, "ffn")
    two_norms = not expect(layer.residual, ParallelConfig, "residual").shared_norm
    return {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_kv_heads": mixer.kv_heads(),
        "new_decoder_architecture": two_norms,
        "multi_query": mixer.kv_heads() == 1,
        "ffn_hidden_size": ffn.d_ff,
        "bias": ffn.bias,
        "layer_norm_epsilon": expect(layer.norm, LayerNormConfig, "norm").eps,
        **write_rope(expect(layer.position, RopeConfig, "position")),
    }


FALCON_7B = {
    "model_type": "falcon",
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
FALCON_RW = {**FALCON_7B, "multi_query": False, "bias": True}
FALCON_40B = {**FALCON_7B, "new_decoder_architecture": True, "num_kv_heads": 2}
FALCON_FAMILY = Family(
    "falcon",
    {
        "hf": Layout(
            FALCON_KEYS,
            of_type("falcon"),
            read_falcon,
            write_falcon,
            samples=(Sample(FALCON_40B), Sample(FALCON_RW), Sample(FALCON_7B)),
        )
    },
    tokenizer="bytes",
)
