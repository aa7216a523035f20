"""What published checkpoints hold: a template of a name -> how many, dtype, shape; and what their config.json says.

After the files' own headers (model.safetensors.index.json and config.json of openai/gpt-oss-20b, Qwen/Qwen3-0.6B,
Qwen/Qwen3-30B-A3B, openai-community/gpt2), as engines that read them by name (vLLM) expect them. ``bytes``: the
published ``total_size`` where there is one, so that a slip of the pen in the table shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Tensor = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Manifest:
    """``counts``: how often ``{l}`` (layer) and ``{e}`` (expert) count."""

    tensors: Mapping[str, Tensor]
    counts: Mapping[str, int]
    config: Mapping[str, Any]
    bytes: int | None = None
    floats: str = "BF16"
    may_lack: frozenset[str] = field(default_factory=frozenset)  # buffers and copies of tied weights

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by its name."""
        for template, tensor in self.tensors.items():
            used = [key for key in self.counts if f"{{{key}}}" in template]
            for numbers in product(*(range(self.counts[key]) for key in used)):
                yield template.format(**dict(zip(used, numbers, strict=True))), tensor


def _layers(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{{l}}.{name}": tensor for name, tensor in tensors.items()}


GPT_OSS_20B = Manifest(
    tensors={
        "model.embed_tokens.weight": ("BF16", (201088, 2880)),
        "model.norm.weight": ("BF16", (2880,)),
        "lm_head.weight": ("BF16", (201088, 2880)),
        **_layers(
            "model.layers",
            {
                "input_layernorm.weight": ("BF16", (2880,)),
                "post_attention_layernorm.weight": ("BF16", (2880,)),
                "self_attn.q_proj.weight": ("BF16", (4096, 2880)),
                "self_attn.q_proj.bias": ("BF16", (4096,)),
                "self_attn.k_proj.weight": ("BF16", (512, 2880)),
                "self_attn.k_proj.bias": ("BF16", (512,)),
                "self_attn.v_proj.weight": ("BF16", (512, 2880)),
                "self_attn.v_proj.bias": ("BF16", (512,)),
                "self_attn.o_proj.weight": ("BF16", (2880, 4096)),
                "self_attn.o_proj.bias": ("BF16", (2880,)),
                "self_attn.sinks": ("BF16", (64,)),
                "mlp.router.weight": ("BF16", (32, 2880)),
                "mlp.router.bias": ("BF16", (32,)),
                "mlp.experts.gate_up_proj_blocks": ("U8", (32, 5760, 90, 16)),
                "mlp.experts.gate_up_proj_scales": ("U8", (32, 5760, 90)),
                "mlp.experts.gate_up_proj_bias": ("BF16", (32, 5760)),
                "mlp.experts.down_proj_blocks": ("U8", (32, 2880, 90, 16)),
                "mlp.experts.down_proj_scales": ("U8", (32, 2880, 90)),
                "mlp.experts.down_proj_bias": ("BF16", (32, 2880)),
            },
        ),
    },
    counts={"l": 24},
    config={
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "vocab_size": 201088,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    },
    bytes=13_761_264_768,
)


def _qwen3(d_model: int, heads: int, kv_heads: int, ffn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "model.embed_tokens.weight": ("BF16", (151936, d_model)),
        "model.norm.weight": ("BF16", (d_model,)),
        "lm_head.weight": ("BF16", (151936, d_model)),
        **_layers(
            "model.layers",
            {
                "input_layernorm.weight": ("BF16", (d_model,)),
                "post_attention_layernorm.weight": ("BF16", (d_model,)),
                "self_attn.q_proj.weight": ("BF16", (heads * 128, d_model)),
                "self_attn.k_proj.weight": ("BF16", (kv_heads * 128, d_model)),
                "self_attn.v_proj.weight": ("BF16", (kv_heads * 128, d_model)),
                "self_attn.o_proj.weight": ("BF16", (d_model, heads * 128)),
                "self_attn.q_norm.weight": ("BF16", (128,)),
                "self_attn.k_norm.weight": ("BF16", (128,)),
                **ffn,
            },
        ),
    }


QWEN3_06B = Manifest(
    tensors=_qwen3(
        1024,
        16,
        8,
        {
            "mlp.gate_proj.weight": ("BF16", (3072, 1024)),
            "mlp.up_proj.weight": ("BF16", (3072, 1024)),
            "mlp.down_proj.weight": ("BF16", (1024, 3072)),
        },
    ),
    counts={"l": 28},
    config={
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "head_dim": 128,
        "num_hidden_layers": 28,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40960,
    },
    may_lack=frozenset({"lm_head.weight"}),
)

QWEN3_30B_A3B = Manifest(
    tensors=_qwen3(
        2048,
        32,
        4,
        {
            "mlp.gate.weight": ("BF16", (128, 2048)),
            "mlp.experts.{e}.gate_proj.weight": ("BF16", (768, 2048)),
            "mlp.experts.{e}.up_proj.weight": ("BF16", (768, 2048)),
            "mlp.experts.{e}.down_proj.weight": ("BF16", (2048, 768)),
        },
    ),
    counts={"l": 48, "e": 128},
    config={
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "tie_word_embeddings": False,
    },
    bytes=61_064_245_248,
)

GPT2 = Manifest(
    tensors={
        "wte.weight": ("F32", (50257, 768)),
        "wpe.weight": ("F32", (1024, 768)),
        "ln_f.weight": ("F32", (768,)),
        "ln_f.bias": ("F32", (768,)),
        **_layers(
            "h",
            {
                "ln_1.weight": ("F32", (768,)),
                "ln_1.bias": ("F32", (768,)),
                "attn.bias": ("F32", (1, 1, 1024, 1024)),
                "attn.c_attn.weight": ("F32", (768, 2304)),
                "attn.c_attn.bias": ("F32", (2304,)),
                "attn.c_proj.weight": ("F32", (768, 768)),
                "attn.c_proj.bias": ("F32", (768,)),
                "ln_2.weight": ("F32", (768,)),
                "ln_2.bias": ("F32", (768,)),
                "mlp.c_fc.weight": ("F32", (768, 3072)),
                "mlp.c_fc.bias": ("F32", (3072,)),
                "mlp.c_proj.weight": ("F32", (3072, 768)),
                "mlp.c_proj.bias": ("F32", (768,)),
            },
        ),
    },
    counts={"l": 12},
    config={"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12},
    floats="F32",
    may_lack=frozenset({f"h.{layer}.attn.bias" for layer in range(12)}),
)

MANIFESTS = {"gpt-oss-20b": GPT_OSS_20B, "qwen3-0.6b": QWEN3_06B, "qwen3-30b-a3b": QWEN3_30B_A3B, "gpt2": GPT2}
