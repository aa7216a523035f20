"""Tiny GPT-2s, tied, scaled by layer and untied, for the conformance suite; logits as transformers computes them."""

from __future__ import annotations

from typing import Any

from blockzoo.checkpoints.family import Sample

MODEL: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 101,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 96,
}
HF = (
    Sample(MODEL, logits=(-0.437585, 0.277547, -0.046749, -0.162541, -0.18444, -0.43172)),
    Sample(
        {**MODEL, "n_layer": 3, "scale_attn_by_inverse_layer_idx": True},
        logits=(-0.196447, 0.257125, -0.059845, -0.238035, -0.077777, -0.320717),
    ),
    Sample(
        {**MODEL, "tie_word_embeddings": False}, logits=(0.776762, 0.615478, -0.36715, -0.429927, -0.392994, -0.088614)
    ),
)
