"""The family: keys of the layout on the model hub, packed or not, and of the original one.

Gate and up are interleaved along the output axis in all of them. The packed tensors have that axis before the
groups and the bytes; the unpacked ones are transposed, so it comes last there.
"""

from __future__ import annotations

from blockzoo.checkpoints.family import Family, Layout
from blockzoo.checkpoints.keymap import KeyMap, Rule, same
from blockzoo_gpt_oss import config_json, original_json, samples
from blockzoo_gpt_oss.chat import HarmonyFormat

RETURN, CALL = 200002, 200012
OURS = "layers.{layer}."
EXPERTS = OURS + "ffn.experts."


def _gate_up(stored: str, leaf: str, axis: int, transposed: bool = False) -> Rule:
    return Rule(stored, (f"{EXPERTS}gate.{leaf}", f"{EXPERTS}up.{leaf}"), transposed, axis, interleaved=True)


HF = "model.layers.{layer}."
HF_KEYS = KeyMap(
    rules=(
        same("model.embed_tokens.weight", "embedding.tokens.weight"),
        same(HF + "input_layernorm.weight", OURS + "mixer_norm.weight"),
        *(
            same(f"{HF}self_attn.{part}_proj.{leaf}", f"{OURS}mixer.{part}.{leaf}")
            for part in "qkvo"
            for leaf in ("weight", "bias")
        ),
        same(HF + "self_attn.sinks", OURS + "mixer.sinks"),
        same(HF + "post_attention_layernorm.weight", OURS + "ffn_norm.weight"),
        same(HF + "mlp.router.weight", OURS + "ffn.router.weight"),
        same(HF + "mlp.router.bias", OURS + "ffn.router.bias"),
        # packed
        _gate_up(HF + "mlp.experts.gate_up_proj_blocks", "weight.blocks", axis=-3),
        _gate_up(HF + "mlp.experts.gate_up_proj_scales", "weight.scales", axis=-2),
        same(HF + "mlp.experts.down_proj_blocks", EXPERTS + "down.weight.blocks"),
        same(HF + "mlp.experts.down_proj_scales", EXPERTS + "down.weight.scales"),
        # not packed
        _gate_up(HF + "mlp.experts.gate_up_proj", "weight", axis=-2, transposed=True),
        Rule(HF + "mlp.experts.down_proj", (EXPERTS + "down.weight",), transposed=True),
        # both
        _gate_up(HF + "mlp.experts.gate_up_proj_bias", "bias", axis=-1),
        same(HF + "mlp.experts.down_proj_bias", EXPERTS + "down.bias"),
        same("model.norm.weight", "head.norm.weight"),
        same("lm_head.weight", "head.unembedding.weight"),
    ),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
)

ORIGINAL = "block.{layer}."
ORIGINAL_KEYS = KeyMap(
    rules=(
        same("embedding.weight", "embedding.tokens.weight"),
        same(ORIGINAL + "attn.norm.scale", OURS + "mixer_norm.weight"),
        Rule(ORIGINAL + "attn.qkv.weight", tuple(f"{OURS}mixer.{part}.weight" for part in "qkv"), axis=-2),
        Rule(ORIGINAL + "attn.qkv.bias", tuple(f"{OURS}mixer.{part}.bias" for part in "qkv")),
        same(ORIGINAL + "attn.sinks", OURS + "mixer.sinks"),
        same(ORIGINAL + "attn.out.weight", OURS + "mixer.o.weight"),
        same(ORIGINAL + "attn.out.bias", OURS + "mixer.o.bias"),
        same(ORIGINAL + "mlp.norm.scale", OURS + "ffn_norm.weight"),
        same(ORIGINAL + "mlp.gate.weight", OURS + "ffn.router.weight"),
        same(ORIGINAL + "mlp.gate.bias", OURS + "ffn.router.bias"),
        _gate_up(ORIGINAL + "mlp.mlp1_weight.blocks", "weight.blocks", axis=-3),
        _gate_up(ORIGINAL + "mlp.mlp1_weight.scales", "weight.scales", axis=-2),
        _gate_up(ORIGINAL + "mlp.mlp1_bias", "bias", axis=-1),
        same(ORIGINAL + "mlp.mlp2_weight.blocks", EXPERTS + "down.weight.blocks"),
        same(ORIGINAL + "mlp.mlp2_weight.scales", EXPERTS + "down.weight.scales"),
        same(ORIGINAL + "mlp.mlp2_bias", EXPERTS + "down.bias"),
        same("norm.scale", "head.norm.weight"),
        same("unembedding.weight", "head.unembedding.weight"),
    ),
)

GPT_OSS = Family(
    name="gpt_oss",
    layouts={
        "hf": Layout(
            keys=HF_KEYS,
            recognizes=lambda values: values.get("model_type") == "gpt_oss",
            read_config=config_json.read_config,
            write_config=config_json.write_config,
            unsaid=frozenset({"balance_loss"}),
            harmless=config_json.HARMLESS,
            null_is_default=frozenset({"swiglu_limit"}),
            samples=samples.HF,
        ),
        "original": Layout(
            keys=ORIGINAL_KEYS,
            recognizes=original_json.recognizes,
            read_config=original_json.read_config,
            write_config=original_json.write_config,
            unsaid=frozenset({"balance_loss"}),
            typed=False,
            null_is_default=frozenset({"swiglu_limit"}),
            samples=samples.ORIGINAL,
            folder="original",
        ),
    },
    tokenizer="o200k_harmony",
    stop_tokens=(RETURN, CALL),
    chat=HarmonyFormat(),
)
