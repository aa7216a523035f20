"""A tiny GPT-2 for the conformance suite; logits as transformers computes them."""

from __future__ import annotations

from blockzoo.checkpoints.family import Sample

HF = (
    Sample(
        {
            "model_type": "gpt2",
            "vocab_size": 101,
            "n_positions": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 96,
        },
        logits=(-0.437585, 0.277547, -0.046749, -0.162541, -0.18444, -0.43172),
    ),
)
