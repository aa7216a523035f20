"""The GPT-2-shaped model that training benchmarks share: 6 layers x 384, block 256, batch 12."""

from __future__ import annotations

LAYERS, WIDTH, HEADS, BLOCK, BATCH = 6, 384, 6, 256, 12
SHAPE = {
    "name": "gpt2-shaped",
    "d_model": WIDTH,
    "context_length": BLOCK,
    "embedding": {"tied": True, "position": {"type": "learned"}},
    "norm": {"type": "layer_norm"},
    "layers": {
        "count": LAYERS,
        "mixer": {"type": "gqa", "n_heads": HEADS, "bias": True},
        "ffn": {"type": "mlp", "d_ff": 4 * WIDTH, "activation": "gelu_tanh", "bias": True},
    },
}
