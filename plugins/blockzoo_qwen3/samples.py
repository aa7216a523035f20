"""Tiny models, dense and mixture of experts, for the conformance suite; logits as transformers computes them."""

from __future__ import annotations

from typing import Any

from blockzoo.checkpoints.family import Sample

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
}
WINDOW: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}

HF = (
    Sample(
        {"model_type": "qwen3", **SIZES, "tie_word_embeddings": True},
        logits=(0.353323, 0.395772, 0.253352, 0.240794, -0.538647, -0.295777),
    ),
    Sample(
        {"model_type": "qwen3", **SIZES, **WINDOW, "attention_bias": True},
        logits=(0.169474, 0.294319, -0.28279, -0.68123, 0.223525, -0.11412),
    ),
    Sample(
        {"model_type": "qwen3_moe", **SIZES, **EXPERTS, "tie_word_embeddings": False},
        logits=(-0.407068, 0.17177, -0.449512, 0.058975, 0.179898, -0.072404),
    ),
)
