"""Models that blockzoo has no family for, assembled from YAML alone, against transformers on the same weights.

Each case is the YAML a user would write, a tiny transformers config, and the renaming of weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
import yaml

import blockzoo

T = 40

COMMON = {
    r"model\.embed_tokens\.": "embedding.tokens.",
    r"model\.norm\.": "head.norm.",
    r"lm_head\.": "head.unembedding.",
    r"model\.layers\.(\d+)\.": r"layers.\1.",
    r"\.self_attn\.([qkvo])_proj\.": r".mixer.\1.",
    r"\.self_attn\.([qk])_norm\.": r".mixer.\1_norm.",
    r"\.mlp\.(gate|up|down)_proj\.": r".ffn.\1.",
    r"\.input_layernorm\.": ".mixer_norm.",
    r"\.post_attention_layernorm\.": ".ffn_norm.",
}
SANDWICH = {
    r"\.post_attention_layernorm\.": ".mixer_post_norm.",
    r"\.pre_feedforward_layernorm\.": ".ffn_norm.",
    r"\.post_feedforward_layernorm\.": ".ffn_post_norm.",
}


@dataclass(frozen=True)
class Case:
    name: str
    yaml: str
    reference: Callable[[], Any]
    renames: dict[str, str]


CASES = [
    Case(
        "llama-3",
        """
        vocab_size: 97
        context_length: 256
        d_model: 64
        norm: {type: rms_norm, eps: 1e-5, scale_in_fp32: false}
        position:
          type: rope
          theta: 500000
          scaling: {type: llama3, factor: 8, original_context_length: 32, low_freq_factor: 1, high_freq_factor: 4}
        layers:
          count: 2
          mixer: {type: gqa, n_heads: 4, n_kv_heads: 2}
          ffn: {type: glu, d_ff: 96}
        """,
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
                rope_parameters={
                    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
                },
            )
        ),
        COMMON,
    ),
    Case(
        "gemma-3",
        """
        vocab_size: 97
        context_length: 256
        d_model: 64
        embedding: {tied: true, scale: sqrt_d_model}
        norm: {type: rms_norm, eps: 1e-6, weight_offset: 1}
        residual: sandwich
        blocks:
          gain: {type: rms_norm, weight_offset: 1}
          heads: {type: gqa, n_heads: 4, n_kv_heads: 2, head_dim: 32, scale: 0.25, qk_norm: gain}
          local: {use: heads, window: 8}
          near: {type: rope, theta: 10000}
          far: {type: rope, theta: 1000000, scaling: {type: linear, factor: 8}}
        layers:
          count: 6
          mixer: {cycle: [local, local, heads]}
          position: {cycle: [near, near, far]}
          ffn: {type: glu, d_ff: 96, activation: gelu_tanh}
        """,
        lambda: transformers.Gemma3ForCausalLM(
            transformers.Gemma3TextConfig(
                vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4,
                num_key_value_heads=2, head_dim=32, query_pre_attn_scalar=16, sliding_window=8, pad_token_id=0,
                max_position_embeddings=256,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
                rope_parameters={
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                },
            )
        ),
        {**COMMON, **SANDWICH},
    ),
    Case(
        "smollm-3",
        """
        vocab_size: 97
        context_length: 256
        d_model: 64
        embedding: {tied: true}
        norm: {type: rms_norm, eps: 1e-6, scale_in_fp32: false}
        position: {type: rope, theta: 2000000}
        blocks:
          turning: {type: rope, theta: 2000000}
        layers:
          count: 4
          mixer: {type: gqa, n_heads: 4, n_kv_heads: 1}
          position: {cycle: [turning, turning, turning, none]}
          ffn: {type: glu, d_ff: 96}
        """,
        lambda: transformers.SmolLM3ForCausalLM(
            transformers.SmolLM3Config(
                vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
                num_key_value_heads=1, max_position_embeddings=256, no_rope_layer_interval=4, tie_word_embeddings=True,
                pad_token_id=0, bos_token_id=1, eos_token_id=2,
                rope_parameters={"rope_type": "default", "rope_theta": 2000000.0},
            )
        ),
        COMMON,
    ),
    Case(
        "olmo-2",
        """
        vocab_size: 97
        context_length: 256
        d_model: 64
        norm: {type: rms_norm, eps: 1e-5}
        residual: {type: sandwich, pre: false}
        position: {type: rope, theta: 500000}
        layers:
          count: 2
          mixer: {type: gqa, n_heads: 4, n_kv_heads: 2, qk_norm: {type: rms_norm, eps: 1e-5}, qk_norm_over: projection}
          ffn: {type: glu, d_ff: 96}
        """,
        lambda: transformers.Olmo2ForCausalLM(
            transformers.Olmo2Config(
                vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, pad_token_id=0,
                eos_token_id=1, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            )
        ),
        {**COMMON, **SANDWICH},
    ),
    Case(
        "gpt-j",
        """
        vocab_size: 97
        context_length: 256
        d_model: 64
        head: {bias: true}
        norm: {type: layer_norm}
        residual: parallel
        position: {type: rope, fraction: 0.5, interleaved: true}
        layers:
          count: 2
          mixer: {type: gqa, n_heads: 4}
          ffn: {type: mlp, d_ff: 96, activation: gelu_tanh, bias: true}
        """,
        lambda: transformers.GPTJForCausalLM(
            transformers.GPTJConfig(
                vocab_size=97, n_embd=64, n_inner=96, n_layer=2, n_head=4, rotary_dim=8, n_positions=256,
                bos_token_id=0, eos_token_id=1,
            )
        ),
        {
            r"transformer\.wte\.": "embedding.tokens.",
            r"transformer\.ln_f\.": "head.norm.",
            r"lm_head\.weight": "head.unembedding.weight",
            r"lm_head\.bias": "head.bias",
            r"transformer\.h\.(\d+)\.": r"layers.\1.",
            r"\.ln_1\.": ".norm.",
            r"\.attn\.([qkv])_proj\.": r".mixer.\1.",
            r"\.attn\.out_proj\.": ".mixer.o.",
            r"\.mlp\.fc_in\.": ".ffn.up.",
            r"\.mlp\.fc_out\.": ".ffn.down.",
        },
    ),
    Case(
        "mixtral",
        """
        vocab_size: 97
        context_length: 256
        d_model: 64
        norm: {type: rms_norm, eps: 1e-5, scale_in_fp32: false}
        position: {type: rope, theta: 1000000}
        layers:
          count: 2
          mixer: {type: gqa, n_heads: 4, n_kv_heads: 2, window: 8}
          ffn: {type: moe, n_experts: 4, top_k: 2, expert: {type: glu, d_ff: 96}}
        """,
        lambda: transformers.MixtralForCausalLM(
            transformers.MixtralConfig(
                vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=256, num_local_experts=4, num_experts_per_tok=2,
                sliding_window=8, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        ),
        {**COMMON, r"\.mlp\.gate\.": ".ffn.router.", r"\.mlp\.experts\.": ".ffn.experts."},
    ),
]  # fmt: skip


def renamed(state: dict[str, torch.Tensor], renames: dict[str, str]) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in state.items():
        for pattern, name in renames.items():
            key = re.sub(pattern, name, key)
        if key.endswith("experts.gate_up_proj"):  # transformers stacks gate over up
            gate, up = tensor.chunk(2, dim=1)
            found[key.replace("gate_up_proj", "gate.weight")] = gate
            found[key.replace("gate_up_proj", "up.weight")] = up
        elif key.endswith("experts.down_proj"):
            found[key.replace("down_proj", "down.weight")] = tensor
        else:
            found[key] = tensor
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_third_party_model_from_yaml(case: Case) -> None:
    torch.manual_seed(0)
    reference = case.reference().eval()
    for parameter in reference.parameters():  # away from zeros and ones, so that no bias or gain is overlooked
        torch.nn.init.normal_(parameter, std=0.05) if parameter.dim() > 1 else parameter.data.normal_(0.3, 0.1)
    model = blockzoo.build(
        blockzoo.load_config({"name": case.name, **yaml.safe_load(case.yaml.replace("1e-", "1.0e-"))})
    )
    weights = renamed(dict(reference.state_dict()), case.renames)
    expected_names = set(model.state_dict())
    model.load_state_dict({name: weights[name] for name in expected_names})
    unused = {name for name in set(weights) - expected_names if name != "head.unembedding.weight"}
    assert not unused
    assert sum(p.numel() for p in reference.parameters()) == blockzoo.account(model.config).parameters["total"]

    tokens = torch.randint(97, (2, T))
    with torch.no_grad():
        expected = reference(tokens, use_cache=False).logits
        found = model(tokens)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        cache = model.new_cache(batch_size=2, max_length=T)
        parts = [model(tokens[:, :20], cache=cache), *(model(tokens[:, i : i + 1], cache=cache) for i in range(20, T))]
        assert (torch.cat(parts, dim=1) - expected).abs().max() <= 2e-5 * expected.abs().max()
