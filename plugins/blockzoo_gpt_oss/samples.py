"""Tiny models in both layouts, packed and not, for the conformance suite; logits as transformers computes them.

It does not read the original layout, whose checkpoint was first converted by us; that key map is held to published
logits in tests/parity.
"""

from __future__ import annotations

from typing import Any

from blockzoo.checkpoints.family import Sample
from blockzoo_gpt_oss.config_json import YARN

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

HF = (
    Sample(MODEL, logits=(0.182443, 0.34475, -0.239678, -0.706628, 0.3306, -0.076869)),
    Sample(
        {**MODEL, "rope_parameters": YARN, "quantization_config": {"quant_method": "mxfp4"}},
        logits=(0.260411, 0.300521, -0.25746, -0.690895, 0.224449, -0.090344),
    ),
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
        logits=(0.032676, -0.365563, 0.666821, -0.08348, 0.288597, -0.545805),
    ),
)
