"""Tiny random models of transformers, the independent implementation that ours is compared with.

Gains, biases and sinks are drawn too: all ones and zeros would hide a key that went to the wrong place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

SIZES = {
    "vocab_size": 211,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
}


def gpt2(**changes: Any) -> transformers.GPT2Config:
    sizes = {"vocab_size": 211, "n_positions": 256, "n_embd": 64, "n_layer": 4, "n_head": 4}
    return transformers.GPT2Config(**{**sizes, "bos_token_id": None, "eos_token_id": None, **changes})


def qwen3(**changes: Any) -> transformers.Qwen3Config:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    sizes = {**SIZES, "intermediate_size": 96, "max_position_embeddings": 40960, "rope_parameters": rope}
    return transformers.Qwen3Config(**{**sizes, "tie_word_embeddings": True, **changes})


def qwen3_moe(**changes: Any) -> transformers.Qwen3MoeConfig:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
    layers = {"mlp_only_layers": [1], "intermediate_size": 96}
    sizes = {**SIZES, "max_position_embeddings": 40960, "rope_parameters": rope, **experts, **layers}
    return transformers.Qwen3MoeConfig(**{**sizes, **changes})


def gpt_oss(**changes: Any) -> transformers.GptOssConfig:
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 96}
    rope = {**YARN, "truncate": False, "rope_theta": 150000.0}
    sizes = {**SIZES, **experts, "sliding_window": 8, "max_position_embeddings": 131072, "rope_parameters": rope}
    return transformers.GptOssConfig(**{**sizes, **changes})


CONFIGS = {"gpt2": gpt2, "qwen3": qwen3, "qwen3_moe": qwen3_moe, "gpt_oss": gpt_oss}


def model(config: transformers.PreTrainedConfig, seed: int = 0) -> transformers.PreTrainedModel:
    """A float32 model with attention written out; weights of std 0.02."""
    torch.manual_seed(seed)
    built = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            is_gain = name.endswith("weight") and parameter.dim() == 1
            noise = torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.dim() == 1 else 0.02)
            parameter.copy_(noise + 1 if is_gain else noise)
    return built


def saved(kind: str, folder: Path, **changes: Any) -> transformers.PreTrainedModel:
    """A model of a kind, saved by transformers into ``folder``."""
    built = model(CONFIGS[kind](**changes))
    built.save_pretrained(folder)
    return built


def tokens(batch_size: int, length: int, vocab_size: int = 211, seed: int = 1) -> Tensor:
    return torch.randint(vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(seed))


def error(ours: Tensor, theirs: Tensor) -> float:
    """Greatest difference over greatest value."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
