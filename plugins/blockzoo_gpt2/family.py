"""GPT-2's checkpoints as on the model hub: config.json and keys in both directions.

Matrices are stored (in, out), and q, k and v in one. The causal masks that old files carry (``attn.bias``,
``attn.masked_bias``) are buffers without weight. The unembedding is the embedding unless config.json says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.checkpoints.family import Family, Layout, expect
from blockzoo.checkpoints.keymap import KeyMap, Rule, same
from blockzoo.config.schema import ModelConfig
from blockzoo_blocks.ffn.mlp import MLPConfig
from blockzoo_blocks.mixers.gqa import GQAConfig
from blockzoo_blocks.norms.layer_norm import LayerNormConfig
from blockzoo_blocks.residuals.pre_norm import PreNormConfig
from blockzoo_gpt2 import samples

END_OF_TEXT = 50256
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}
WRITTEN_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "relu2": "relu2", "silu": "silu"}

HERE = "{prefix}h.{layer}."
OURS = "layers.{layer}."


def _fused(leaf: str) -> tuple[str, ...]:
    return tuple(f"{OURS}mixer.{part}.{leaf}" for part in "qkv")


KEYS = KeyMap(
    prefixes=("transformer.", ""),
    rules=(
        same("{prefix}wte.weight", "embedding.tokens.weight"),
        same("{prefix}wpe.weight", "embedding.position.weight"),
        same(HERE + "ln_1.weight", OURS + "mixer_norm.weight"),
        same(HERE + "ln_1.bias", OURS + "mixer_norm.bias"),
        Rule(HERE + "attn.c_attn.weight", _fused("weight"), transposed=True, axis=-2),
        Rule(HERE + "attn.c_attn.bias", _fused("bias")),
        Rule(HERE + "attn.c_proj.weight", (OURS + "mixer.o.weight",), transposed=True),
        same(HERE + "attn.c_proj.bias", OURS + "mixer.o.bias"),
        same(HERE + "ln_2.weight", OURS + "ffn_norm.weight"),
        same(HERE + "ln_2.bias", OURS + "ffn_norm.bias"),
        Rule(HERE + "mlp.c_fc.weight", (OURS + "ffn.up.weight",), transposed=True),
        same(HERE + "mlp.c_fc.bias", OURS + "ffn.up.bias"),
        Rule(HERE + "mlp.c_proj.weight", (OURS + "ffn.down.weight",), transposed=True),
        same(HERE + "mlp.c_proj.bias", OURS + "ffn.down.bias"),
        same("{prefix}ln_f.weight", "head.norm.weight"),
        same("{prefix}ln_f.bias", "head.norm.bias"),
        same("lm_head.weight", "head.unembedding.weight"),
    ),
    weightless=(HERE + "attn.bias", HERE + "attn.masked_bias"),
    copies={"lm_head.weight": "{prefix}wte.weight"},
)


def read_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json -> what YAML would say. Absent keys mean what the published class takes."""
    keys = ConfigJSON(values)
    keys.flag("reorder_and_upcast_attn", default=False)
    keys.must_be("add_cross_attention", False)
    d_model = keys.integer("n_embd", "hidden_size", default=768)
    heads = keys.integer("n_head", "num_attention_heads", default=12)
    n_layers = keys.integer("n_layer", "num_hidden_layers", default=12, most=10_000)
    scale = (d_model / heads) ** -0.5 if keys.flag("scale_attn_weights", default=True) else 1.0
    mixer = {
        "type": "gqa",
        "n_heads": heads,
        "bias": True,
        "dropout": keys.number("attn_pdrop", default=0.1),
        **({"scale": scale} if scale == 1.0 else {}),
    }
    if keys.flag("scale_attn_by_inverse_layer_idx", default=False):  # Mistral's GPT-2s (Karamcheti et al. 2021)
        later = [{**mixer, "scale": scale / (layer + 1)} for layer in range(1, n_layers)]
        mixer = {"list": [mixer, *later]}
    config = {
        "family": "gpt2",
        "vocab_size": keys.integer("vocab_size", default=50257),
        "context_length": keys.integer("n_positions", "max_position_embeddings", "n_ctx", default=1024),
        "d_model": d_model,
        "embedding": {
            "tied": keys.flag("tie_word_embeddings", default=True),
            "dropout": keys.number("embd_pdrop", default=0.1),
            "position": {"type": "learned"},
        },
        "norm": {"type": "layer_norm", "eps": keys.number("layer_norm_epsilon", default=1e-5)},
        "position": {"type": "none"},
        "residual": {"type": "pre_norm", "dropout": keys.number("resid_pdrop", default=0.1)},
        "init": {"std": keys.number("initializer_range", default=0.02), "residual_output": "depth_scaled"},
        "layers": {
            "count": n_layers,
            "mixer": mixer,
            "ffn": {
                "type": "mlp",
                "d_ff": keys.integer("n_inner", default=4 * d_model),
                "activation": keys.choice("activation_function", ACTIVATIONS, default="gelu_new"),
                "bias": True,
            },
        },
    }
    keys.finish()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    mixer = expect(layer.mixer, GQAConfig, "mixer")
    ffn = expect(layer.ffn, MLPConfig, "ffn")
    norm = expect(layer.norm, LayerNormConfig, "norm")
    residual = expect(layer.residual, PreNormConfig, "residual")
    scales = [expect(one.mixer, GQAConfig, "mixer").scale for one in config.layers]
    ends = {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT} if config.vocab_size > END_OF_TEXT else {}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": mixer.n_heads,
        "n_inner": ffn.d_ff,
        "activation_function": WRITTEN_ACTIVATIONS[ffn.activation],
        "layer_norm_epsilon": norm.eps,
        "embd_pdrop": config.embedding.dropout,
        "attn_pdrop": mixer.dropout,
        "resid_pdrop": residual.dropout,
        "scale_attn_weights": mixer.scale != 1.0,
        "scale_attn_by_inverse_layer_idx": scales[-1] != scales[0],
        "initializer_range": config.init.std,
        "tie_word_embeddings": config.embedding.tied,
        **(ends or {"bos_token_id": None, "eos_token_id": None}),
    }


GPT2 = Family(
    name="gpt2",
    layouts={
        "hf": Layout(
            keys=KEYS,
            recognizes=lambda values: values.get("model_type") == "gpt2",
            read_config=read_config,
            write_config=write_config,
            samples=samples.HF,
            harmless=frozenset({"reorder_and_upcast_attn"}),  # another order for float16's sake, the same function
        )
    },
    tokenizer="gpt2",
    stop_tokens=(END_OF_TEXT,),
)
