"""The family: keys of dense and mixture-of-experts checkpoints, one tensor an expert."""

from __future__ import annotations

from blockzoo.checkpoints.family import Family, Layout
from blockzoo.checkpoints.keymap import KeyMap, same
from blockzoo_qwen3 import samples
from blockzoo_qwen3.chat import ChatML
from blockzoo_qwen3.config_json import MODEL_TYPES, read_config, write_config
from blockzoo_qwen3.tokenizer import END_OF_TEXT, IM_END, SPLITTING

HERE = "model.layers.{layer}."
OURS = "layers.{layer}."

KEYS = KeyMap(
    rules=(
        same("model.embed_tokens.weight", "embedding.tokens.weight"),
        same(HERE + "input_layernorm.weight", OURS + "mixer_norm.weight"),
        *(
            same(f"{HERE}self_attn.{part}_proj.{leaf}", f"{OURS}mixer.{part}.{leaf}")
            for part in "qkvo"
            for leaf in ("weight", "bias")
        ),
        same(HERE + "self_attn.q_norm.weight", OURS + "mixer.q_norm.weight"),
        same(HERE + "self_attn.k_norm.weight", OURS + "mixer.k_norm.weight"),
        same(HERE + "post_attention_layernorm.weight", OURS + "ffn_norm.weight"),
        *(same(f"{HERE}mlp.{part}_proj.weight", f"{OURS}ffn.{part}.weight") for part in ("gate", "up", "down")),
        same(HERE + "mlp.gate.weight", OURS + "ffn.router.weight"),
        *(
            same(f"{HERE}mlp.experts.{{expert}}.{part}_proj.weight", f"{OURS}ffn.experts.{part}.weight[{{expert}}]")
            for part in ("gate", "up", "down")
        ),
        same("model.norm.weight", "head.norm.weight"),
        same("lm_head.weight", "head.unembedding.weight"),
    ),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
)

QWEN3 = Family(
    name="qwen3",
    layouts={
        "hf": Layout(
            keys=KEYS,
            recognizes=lambda values: values.get("model_type") in MODEL_TYPES,
            read_config=read_config,
            write_config=write_config,
            unsaid=frozenset({"balance_loss"}),
            null_is_default=frozenset({"head_dim"}),
            samples=samples.HF,
        )
    },
    tokenizer="Qwen/Qwen3-0.6B",
    stop_tokens=(IM_END, END_OF_TEXT),
    splittings={"Qwen2Tokenizer": SPLITTING, "Qwen3Tokenizer": SPLITTING},
    chat=ChatML(),
)
