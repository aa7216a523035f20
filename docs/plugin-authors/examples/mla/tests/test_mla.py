"""The block by itself, and a whole DeepSeek-V3 from YAML against transformers', in float32."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from blockzoo_mla.mixer import MultiHeadLatentAttention
from torch import nn

import blockzoo
from blockzoo.testing import conformance

transformers = pytest.importorskip("transformers", reason="the independent implementation (the test extra)")

test_conformance = conformance("mla")

T = 80  # longer than the context before YaRN
YARN = {"factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0}
SCALE = 24**-0.5 * (0.1 * torch.log(torch.tensor(8.0)).item() + 1) ** 2
RMS_NORM = {"type": "rms_norm", "eps": 1e-6, "scale_in_fp32": False}


def config(q_rank: int | None) -> dict:
    """DeepSeek-V3 in small: a dense layer, then experts."""
    attention = {"n_heads": 4, "q_rank": q_rank, "kv_rank": 32, "nope_dim": 16, "rope_dim": 8, "v_dim": 12}
    router = {"score": "sigmoid", "selection_bias": True, "weights": "all_renormalized", "scale": 2.5}
    router |= {"groups": 4, "top_groups": 2}
    experts = {"n_experts": 8, "top_k": 2, "expert": {"type": "glu", "d_ff": 32}, "shared": {"type": "glu", "d_ff": 32}}
    scaling = {"type": "yarn", **YARN, "original_context_length": 32, "attention_factor": 1.0}
    return {
        "vocab_size": 97,
        "context_length": 256,
        "d_model": 64,
        "norm": RMS_NORM,
        "position": {"type": "rope", "theta": 10000, "interleaved": True, "scaling": scaling},
        "blocks": {
            "attention": {"type": "mla", **attention, "norm": RMS_NORM, "scale": SCALE},
            "dense": {"type": "glu", "d_ff": 96},
            "experts": {"type": "moe", **experts, "router": router},
        },
        "layers": {
            "count": 3,
            "mixer": "attention",
            "ffn": {"runs": [{"use": "dense", "count": 1}, {"use": "experts"}]},
        },
    }


def reference(q_rank: int | None) -> nn.Module:
    settings = transformers.DeepseekV3Config(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=q_rank,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=4,
        topk_group=2,
        max_position_embeddings=256,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            **YARN,
            "original_max_position_embeddings": 32,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.DeepseekV3ForCausalLM(settings).eval()
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            tensor.add_(torch.randn_like(tensor) * 0.1)
        if "correction_bias" in name:
            tensor.copy_(torch.randn_like(tensor) * 0.1)
    return model


def converted(theirs: dict[str, torch.Tensor], n_heads: int, nope: int) -> dict[str, torch.Tensor]:
    """Their tensors under our names."""
    names = {
        "model.embed_tokens": "embedding.tokens", "model.norm": "head.norm", "lm_head": "head.unembedding",
        "model.layers": "layers", "input_layernorm": "mixer_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn": "mixer", "q_a_proj": "q_down", "q_a_layernorm": "q_norm", "q_b_proj": "q_up", "q_proj": "q_up",
        "kv_a_proj_with_mqa": "kv_down", "kv_a_layernorm": "kv_norm", "kv_b_proj": "kv_up", "o_proj": "o", "mlp": "ffn",
        "gate_proj": "gate", "up_proj": "up", "down_proj": "down", "shared_experts": "shared",
        "ffn.gate.weight": "ffn.router.weight", "ffn.gate.e_score_correction_bias": "ffn.router.selection_bias",
    }  # fmt: skip
    ours: dict[str, torch.Tensor] = {}
    for name, tensor in theirs.items():
        sparse = "mlp.gate." in name
        for old, new in names.items():
            if not old.startswith("ffn.gate") or sparse:
                name = name.replace(old, new)
        if "kv_up" in name:
            k, v = tensor.unflatten(0, (n_heads, -1)).tensor_split([nope], dim=1)
            ours |= {name.replace("kv_up", "k_up"): k.flatten(0, 1), name.replace("kv_up", "v_up"): v.flatten(0, 1)}
        elif name.endswith("experts.gate_up"):
            gate, up = tensor.chunk(2, dim=1)
            ours |= {name.replace("gate_up", "gate.weight"): gate, name.replace("gate_up", "up.weight"): up}
        else:
            ours[f"{name}.weight" if name.endswith("experts.down") else name] = tensor
    return ours


@pytest.fixture(params=[24, None], ids=["compressed queries", "plain queries"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    theirs = reference(request.param)
    ours = blockzoo.build(blockzoo.load_config(config(request.param)))
    ours.load_state_dict(converted(theirs.state_dict(), n_heads=4, nope=16))
    return ours, theirs


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 97, (2, T), generator=torch.Generator().manual_seed(1))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def test_it_is_deepseek_v3(pair: tuple[nn.Module, nn.Module], tokens: torch.Tensor) -> None:
    ours, theirs = pair
    expected = theirs(tokens).logits
    assert error(ours(tokens), expected) < 1e-5
    cache = ours.new_cache(batch_size=2)
    cuts = [0, 1, 40, 61, *range(62, T + 1)]  # chunks are expanded, single tokens work on the latents
    parts = [ours(tokens[:, a:b], cache=cache) for a, b in pairwise(cuts)]
    assert error(torch.cat(parts, dim=1), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("trainable", [False, True], ids=["packed", "master"])
def test_a_quantized_matrix_is_absorbed_too(
    trainable: bool, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = {"blocks.attention.quantizer": {"type": "int8", "group_size": 16}}
    model = blockzoo.build(blockzoo.load_config(config(None), int8), trainable=trainable)
    expected, cache = model(tokens), model.new_cache(batch_size=2)
    parts = [model(tokens[:, :60], cache=cache)]
    monkeypatch.delattr(MultiHeadLatentAttention, "_expanded")
    parts += [model(tokens[:, t : t + 1], cache=cache) for t in range(60, T)]
    assert error(torch.cat(parts, dim=1), expected) < 1e-5


def test_the_cache_holds_latents() -> None:
    cache = blockzoo.build(blockzoo.load_config(config(None))).new_cache(max_length=100)
    assert cache.nbytes() == 3 * 100 * (32 + 8) * 4


def test_deepseek_v2_lite_is_whole() -> None:
    shape = transformers.DeepseekV2Config(
        vocab_size=102400, hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408, num_hidden_layers=27,
        num_attention_heads=16, num_key_value_heads=16, n_shared_experts=2, n_routed_experts=64, num_experts_per_tok=6,
        q_lora_rank=None, kv_lora_rank=512, first_k_dense_replace=1,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.DeepseekV2ForCausalLM(shape)
    account = blockzoo.account(blockzoo.load_config("deepseek-v2-lite"))
    assert account.parameters["total"] == sum(parameter.numel() for parameter in theirs.parameters())
