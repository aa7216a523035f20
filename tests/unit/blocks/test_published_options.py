"""Whole tiny models from YAML that need one rarer option each, against transformers: full passes and decoding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from blockzoo.accounting import account
from blockzoo.building import build
from blockzoo.config import load_config
from blockzoo.model import Decoder
from blockzoo.recording import Steps
from blockzoo.registry import Registry
from blockzoo_blocks.positions.rope_scaling import LongRopeScaling
from blockzoo_cpu import library
from blockzoo_cpu.player import CPlayer

SIZES: dict[str, Any] = {"vocab_size": 48, "context_length": 64, "d_model": 32}
THEIRS: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "attn_implementation": "eager",
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
GQA = {"type": "gqa", "n_heads": 4, "n_kv_heads": 2}
EACH_HEAD = {**GQA, "qk_norm": {"type": "layer_norm", "bias": False}, "qk_norm_over": "each_head"}
COMMON = {
    r"model\.embed_tokens": "embedding.tokens",
    r"model\.norm": "head.norm",
    "lm_head": "head.unembedding",
    r"model\.layers": "layers",
    "self_attn": "mixer",
    "input_layernorm": "mixer_norm",
    "post_attention_layernorm": "ffn_norm",
    r"([qkvo]|gate|up|down|qkv|gate_up)_proj(\.weight|\.bias)?$": r"\1\2",
    r"mlp\.": "ffn.",
}
"""Theirs -> ours."""
MOE = {r"mlp\.gate\.": "mlp.router.", "shared_expert": "shared"}
PARTS = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
LISTS = {"short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1.0, 3.0, 6.0, 12.0]}


def canonical(stored: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Their weights under our names: fused ones apart, those of each head as rows of one."""
    found: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {}
    for name, tensor in stored.items():
        for theirs, ours in {**names, **COMMON}.items():
            name = re.sub(theirs, ours, name)
        name = name if name.endswith((".weight", ".bias")) else f"{name}.weight"
        module, part, kind = name.rsplit(".", 2)
        if part in PARTS:
            split = tensor.split([32, 16, 16]) if part == "qkv" else tensor.chunk(2, dim=-2)
            found |= {f"{module}.{p}.{kind}": one for p, one in zip(PARTS[part], split, strict=True)}
        elif module.endswith("_layernorm.norms"):
            rows.setdefault(f"{module.removesuffix('_layernorm.norms')}_norm.{kind}", []).append(tensor)
        else:
            found[name] = tensor
    return found | {name: torch.stack(heads) for name, heads in rows.items()}


def pair(
    theirs: type, config: Any, said: dict[str, Any], registry: Registry, names: Mapping[str, str] = MappingProxyType({})
) -> tuple[Any, Decoder]:
    """Theirs with random weights, and ours with the same."""
    torch.manual_seed(0)
    model = theirs(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 1.0))
    made = build(load_config({"name": "m", **SIZES, **said}, registry=registry), registry=registry)
    made.load_state_dict(canonical(model.state_dict(), names))
    return model, made


def close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def agree(model: Any, made: Decoder, length: int = 24) -> None:
    """Logits of a full pass and of decoding, replayed where this machine can."""
    tokens = torch.randint(0, 48, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(tokens).logits
        close(made(tokens), expected)
        cache = made.new_cache(2, length)
        steps = Steps(made, cache)
        found = [steps(tokens[:, :5]), *(steps(tokens[:, i : i + 1]) for i in range(5, length))]
    close(torch.cat(found, dim=1), expected[:, 4:])
    assert steps.recorded == (library.problem() is None), steps.why_not


def qwen2_moe(gated: bool = True) -> dict[str, Any]:
    glu = {"type": "glu", "d_ff": 24}
    ffn = {"type": "moe", "n_experts": 5, "top_k": 2, "expert": glu, "router": {"weights": "all"}}
    ffn |= {"shared": {**glu, "d_ff": 40}, "shared_gate": gated}
    mixer = {**GQA, "bias": ["q", "k", "v"]}
    return {"norm": "rms_norm", "position": "rope", "layers": {"count": 2, "mixer": mixer, "ffn": ffn}}


def test_the_shared_expert_of_qwen2_moe_has_a_gate(registry: Registry) -> None:
    config = Qwen2MoeConfig(
        **THEIRS, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40,
        norm_topk_prob=False, decoder_sparse_step=1, qkv_bias=True,
    )  # fmt: skip
    model, made = pair(Qwen2MoeForCausalLM, config, qwen2_moe(), registry, MOE)
    agree(model, made)
    with_gate, without = (
        account(load_config({"name": "m", **SIZES, **qwen2_moe(gated)}, registry=registry), context=1).cost
        for gated in (True, False)
    )
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in made.parameters())
    assert with_gate.flops - without.flops == 2 * 2 * 32  # two layers, one row each


def test_the_gate_rounds_as_qwen2_moe_does_in_bfloat16(registry: Registry) -> None:
    config = Qwen2MoeConfig(
        **THEIRS, num_experts=5, num_experts_per_tok=5, moe_intermediate_size=24, shared_expert_intermediate_size=40
    )
    model, made = pair(Qwen2MoeForCausalLM, config, qwen2_moe(), registry, MOE)
    theirs, ours = model.bfloat16().model.layers[0].mlp, made.bfloat16().layers[0].ffn
    x = torch.randn(30, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.no_grad():
        shared = ours.shared(x)[0]
        expected = torch.sigmoid(theirs.shared_expert_gate(x)) * shared
        for phase in ("train", "prefill", "decode"):
            assert torch.equal(ours.mix[phase](shared, ours.shared_gate(x)[1]), expected)


def test_cohere_norms_each_head_by_gains_of_its_own(registry: Registry) -> None:
    config = CohereConfig(**THEIRS, use_qk_norm=True, logit_scale=1.0)
    said = {
        "norm": {"type": "layer_norm", "bias": False},
        "position": {"type": "rope", "theta": 5e5, "interleaved": True},
        "residual": "parallel",
        "layers": {"count": 2, "mixer": EACH_HEAD, "ffn": {"type": "glu", "d_ff": 40}},
    }
    model, made = pair(CohereForCausalLM, config, said, registry, {r"\.input_layernorm": ".norm"})
    agree(model, made)
    assert made.state_dict()["layers.0.mixer.q_norm.weight"].shape == (4, 8)


def test_stablelm_2_norms_each_head_by_gains_of_its_own(registry: Registry) -> None:
    config = StableLmConfig(**THEIRS, qk_layernorm=True, partial_rotary_factor=0.25)
    said = {
        "norm": "layer_norm",
        "position": {"type": "rope", "fraction": 0.25},
        "layers": {"count": 2, "mixer": EACH_HEAD, "ffn": {"type": "glu", "d_ff": 40}},
    }
    agree(*pair(StableLmForCausalLM, config, said, registry))


@pytest.mark.parametrize("context_length", [64, 16])
def test_phi_3_turns_by_the_long_list_past_the_original_context(context_length: int, registry: Registry) -> None:
    """Theirs chooses by the length of the pass: past 16 tokens the long list, else the short one, both with the factor
    of the long context.
    """
    rope = {"rope_type": "longrope", **LISTS, "rope_theta": 10000.0}
    config = Phi3Config(**THEIRS, original_max_position_embeddings=16, rope_parameters=rope)
    scaling = {"type": "longrope", "factor": 4, "original_context_length": 16, **LISTS}
    said = {
        "context_length": context_length,
        "norm": {"type": "rms_norm", "eps": 1e-5},
        "position": {"type": "rope", "scaling": scaling},
        "layers": {"count": 2, "mixer": GQA, "ffn": {"type": "glu", "d_ff": 40}},
    }
    model, made = pair(Phi3ForCausalLM, config, said, registry)
    which = made.layers[0].mixer.position.recipe.scaling
    assert isinstance(which, LongRopeScaling)
    assert which.which == ("long" if context_length == 64 else "short")
    agree(model, made, length=40 if context_length == 64 else 16)
    if context_length == 64:
        short = torch.arange(16)[None]
        with torch.no_grad():
            assert not torch.allclose(made(short), model(short).logits, rtol=0.01)


@pytest.mark.skipif(library.problem() is not None, reason="nothing plays recordings without a C compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_with_all_of_them_stays_in_c(
    dtype: torch.dtype, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    stretches: list[int] = []
    prepare = CPlayer.prepare
    monkeypatch.setattr(CPlayer, "prepare", lambda self, calls: (stretches.append(len(calls)), prepare(self, calls))[1])
    scaling = {"type": "longrope", "factor": 4, "original_context_length": 16, **LISTS}
    moe = qwen2_moe()["layers"]["ffn"]
    new = {"norm": {"type": "rms_norm", "weight": False}, "position": {"type": "rope", "scaling": scaling}}
    new |= {"layers": {"count": 2, "mixer": EACH_HEAD, "ffn": moe}}
    old = {"norm": "rms_norm", "position": "rope"}
    old |= {"layers": {"count": 2, "mixer": {**GQA, "qk_norm": "layer_norm"}, "ffn": {**moe, "shared_gate": False}}}
    counts = []
    for said in (new, old):
        stretches.clear()
        config = load_config({"name": "m", **SIZES, **said}, registry=registry)
        made = build(config, registry=registry, dtype=dtype, seed=1)
        plain, ours = made.new_cache(1, 64), made.new_cache(1, 64)
        steps = Steps(made, ours)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _ in range(20):
                token = torch.randint(0, 48, (1, 1), generator=generator)
                assert torch.equal(steps(token), made(token, cache=plain, last_only=True))
        assert steps.recorded, steps.why_not
        counts.append(list(stretches))
    assert len(counts[0]) == len(counts[1])
    assert sum(counts[0]) == sum(counts[1]) + 2 * 4  # a logit, a choice, a weight and a product, in each layer
