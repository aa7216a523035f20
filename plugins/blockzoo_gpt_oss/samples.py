"""Tiny models in both layouts, packed and not, for the conformance suite; logits as transformers computes them."""

from __future__ import annotations

from typing import Any

from blockzoo.checkpoints.family import Sample

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 64,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 5,
    "rope_theta": 150000.0,
}
MODEL: dict[str, Any] = {"model_type": "gpt_oss", **SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
PACKED = (-0.166575, 0.04017, -0.034389, -0.245271, 0.118687, 0.094339)

HF = (
    Sample(MODEL, logits=(0.159309, 0.093475, 0.017661, 0.194313, -0.055761, 0.290714)),
    Sample({**MODEL, "quantization_config": {"quant_method": "mxfp4"}}, logits=PACKED),
)
ORIGINAL = (
    Sample(
        {
            **SIZES,
            "num_experts": 4,
            "experts_per_token": 2,
            "swiglu_limit": 7.0,
            "initial_context_length": 4096,
            "rope_scaling_factor": 32.0,
            "rope_ntk_alpha": 1,
            "rope_ntk_beta": 32,
        },
        logits=PACKED,
    ),
)
