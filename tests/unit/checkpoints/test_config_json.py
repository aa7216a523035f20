"""config.json in its dialects, and what can't be said in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockzoo.building import build
from blockzoo.checkpoints import read_config, save_pretrained
from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.checkpoints.family import differences
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, ConfigError
from blockzoo.plugins import shipped_configs
from blockzoo.registry import Registrar, Registry

QWEN3_0_6B = {  # as published, but for what every file has
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
CODER_480B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 6144,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 262144,
    "max_window_layers": 62,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 2560,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts": 160,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 62,
    "num_key_value_heads": 8,
    "output_router_logits": False,
    "qkv_bias": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "router_aux_loss_coef": 0.0,
    "shared_expert_intermediate_size": 0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.3",
    "use_cache": True,
    "use_qk_norm": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
}
GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
ORIGINAL_20B = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


@pytest.fixture
def configs(registry: Registry) -> Registry:
    """The registry, and the shipped YAML files."""
    folders = {name: [shipped_configs(name)] for name in ("gpt2", "gpt_oss", "qwen3")}
    return Registry(builtin=registry.builtin, things=registry.things, config_folders=folders)


def read(values: dict[str, Any], registry: Registry, family: str = "", layout: str = "hf") -> ModelConfig:
    family = family or {"qwen3_moe": "qwen3"}.get(values["model_type"], values["model_type"])
    return load_config(registry.get("family", family).layouts[layout].read_config(values), registry=registry)


@pytest.mark.parametrize(
    ("values", "name", "layout"),
    [
        (GPT2, "gpt2", "hf"),
        (QWEN3_0_6B, "qwen3-0.6b", "hf"),
        (CODER_480B, "qwen3-coder-480b-a35b", "hf"),
        (GPT_OSS_20B, "gpt-oss-20b", "hf"),
        (ORIGINAL_20B, "gpt-oss-20b", "original"),
    ],
)
def test_published_files_are_the_shipped_configs(
    values: dict[str, Any], name: str, layout: str, configs: Registry
) -> None:
    shipped = load_config(name, registry=configs)
    assert shipped.family is not None
    family = configs.canonical("family", shipped.family).rpartition(":")[2]
    chosen = configs.get("family", family).layouts[layout]
    assert chosen.recognizes(values)
    ours = read(values, configs, family, layout)
    assert differences(shipped, ours, chosen.unsaid) == []
    again = read(chosen.write_config(shipped), configs, family, layout)
    assert differences(shipped, again, chosen.unsaid) == []


def test_dialects_mix_key_by_key(registry: Registry) -> None:
    yarn = {k: v for k, v in GPT_OSS_20B["rope_scaling"].items() if k != "rope_type"}  # type: ignore[attr-defined]
    new = {k: v for k, v in GPT_OSS_20B.items() if k not in ("rope_scaling", "rope_theta")}
    same = read(GPT_OSS_20B, registry)
    for change in (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 150000, **yarn}},
        {"rope_parameters": {"type": "yarn", **yarn}, "rope_theta": 150000.0},
        {"rope_scaling": {"type": "yarn", **yarn}},
    ):
        assert differences(same, read({**new, **change}, registry)) == []
    experts = {k: v for k, v in CODER_480B.items() if k != "num_experts"}
    assert differences(read(CODER_480B, registry), read({**experts, "num_local_experts": 160}, registry)) == []
    assert read({**GPT_OSS_20B, "experts_per_token": 2}, registry).layers[0].ffn.top_k == 4  # type: ignore[union-attr]


def test_class_defaults_that_bite(registry: Registry) -> None:
    def layer(values: dict[str, Any], *absent: str, **changes: Any) -> Any:
        return read({k: v for k, v in {**values, **changes}.items() if k not in absent}, registry).layers[0]

    assert layer(QWEN3_0_6B, "rope_theta").position.theta == 10000.0
    assert layer(QWEN3_0_6B, "head_dim").mixer.head_dim == 128
    assert layer(CODER_480B, "head_dim").mixer.head_dim == 64
    assert layer(CODER_480B, "norm_topk_prob").ffn.router.weights == "all"
    assert layer(CODER_480B).ffn.router.weights == "all_renormalized"
    assert layer(GPT_OSS_20B, "rope_scaling", "rope_theta").position == layer(GPT_OSS_20B).position
    assert layer(GPT_OSS_20B, "rope_theta", rope_scaling={}).position == layer(GPT_OSS_20B).position
    assert layer(GPT_OSS_20B, "rope_scaling", "rope_theta", rope_parameters={}).position.scaling is None
    yarn = {"rope_type": "yarn", "factor": 4.0}
    scaling = layer(QWEN3_0_6B, rope_scaling=yarn).position.scaling
    assert (scaling.original_context_length, scaling.truncate) == (40960, True)
    assert not read({k: v for k, v in QWEN3_0_6B.items() if k != "tie_word_embeddings"}, registry).embedding.tied
    assert read(GPT2, registry).embedding.tied
    assert layer(GPT2, n_inner=None).ffn.d_ff == 3072


def test_which_layers_slide_and_which_are_sparse(registry: Registry) -> None:
    def layers(**changes: Any) -> Any:
        return read({**changes.pop("values", QWEN3_0_6B), **changes}, registry).layers

    assert all(layer.mixer.window is None for layer in layers(sliding_window=4096))
    windows = [
        layer.mixer.window for layer in layers(use_sliding_window=True, sliding_window=512, max_window_layers=26)
    ]
    assert windows == [None] * 26 + [512] * 2
    moe = layers(values=CODER_480B, use_sliding_window=True, sliding_window=512)
    assert {layer.mixer.window for layer in moe} == {512}  # transformers heeds max_window_layers for dense models only
    moe = layers(values=CODER_480B, mlp_only_layers=[1, 3], decoder_sparse_step=2)
    assert [hasattr(layer.ffn, "n_experts") for layer in moe[:6]] == [False, False, False, False, False, True]
    oss = layers(values=GPT_OSS_20B)
    assert [layer.mixer.window for layer in oss[:3]] == [128, None, 128]


@pytest.mark.parametrize(
    ("values", "changes", "match"),
    [
        (QWEN3_0_6B, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'rope_type' is 'dynamic'"),
        (QWEN3_0_6B, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "alpha": 1.0}}, "does not know: 'alpha'"),
        (QWEN3_0_6B, {"layer_types": ["full_attention"]}, "must be a list of 28 words"),
        (
            QWEN3_0_6B,
            {"quantization_config": {"quant_method": "fp8"}},
            "says that the weights are quantized",
        ),
        (CODER_480B, {"num_experts": None, "num_local_experts": "x"}, "'num_local_experts' is 'x'; it must be"),
        (CODER_480B, {"num_experts": None, "num_local_experts": 2**27}, "'num_local_experts' is 134217728; it must"),
        (QWEN3_0_6B, {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5; this family"),
        (QWEN3_0_6B, {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "is 0.5"),
        (CODER_480B, {"qkv_bias": True}, "'qkv_bias' is true"),
        (CODER_480B, {"mlp_only_layers": "all"}, "must be a list of layer numbers"),
        (GPT_OSS_20B, {"quantization_config": {"quant_method": "gptq"}}, "'quant_method' is 'gptq'"),
        (GPT_OSS_20B, {"sliding_window": None}, "there are sliding layers"),
        (GPT_OSS_20B, {"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        (GPT2, {"n_layer": 10**9}, "must be a whole number from 1 to"),
        (GPT2, {"embd_pdrop": 10**400}, "must be a number"),
    ],
)
def test_what_is_refused(values: dict[str, Any], changes: dict[str, Any], match: str, registry: Registry) -> None:
    with pytest.raises(CheckpointError, match=match):
        read({**values, **changes}, registry)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, registry: Registry) -> None:
    values = {
        **GPT_OSS_20B,
        "hidden_size": 0,
        "vocab_size": -1,
        "num_hidden_layers": "many",
        "hidden_act": "tanh",
        "rope_scaling": {"rope_type": "yarn", "factor": "4", "ntk_alpha": 1.0},
        "rope_ntk_alpha": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path, registry=registry)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{tmp_path}: config.json: ") for line in lines)
    said = "\n".join(line.removeprefix(f"{tmp_path}: config.json: ") for line in lines)
    for words in (
        "'hidden_size' is 0; it must be a whole number from 1 to",
        "'vocab_size' is -1",
        "'num_hidden_layers' is 'many'",
        "'hidden_act' is 'tanh', which blockzoo does not do",
        "rope_scaling: 'factor' is '4'",
        "rope_scaling: keys that blockzoo does not know: 'ntk_alpha'",
        "\nkeys that blockzoo does not know: 'rope_ntk_alpha'",
    ):
        assert words in said
    assert len(lines) == 7


def test_what_the_config_itself_refuses_has_its_place(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**QWEN3_0_6B, "num_key_value_heads": 3}))
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path, registry=registry, overrides={"norm.epz": 1})
    ours, theirs = caught.value.problems
    assert (ours.place, theirs.place) == (f"{tmp_path}: config.json", "override norm.epz")
    assert "not a multiple of n_kv_heads 3" in ours.message


def test_the_default_of_a_choice_is_the_files_word() -> None:
    words = {"gelu_new": "gelu_tanh", "silu": "silu"}
    assert ConfigJSON({}).choice("act", words, default="gelu_new") == "gelu_tanh"
    keys = ConfigJSON({"act": "tanh"})
    keys.choice("act", words, default="gelu_tanh")
    assert keys.problems == ["config.json: 'act' is 'tanh'; it must be one of gelu_new, silu"]
    keys = ConfigJSON({})
    keys.choice("act", words, default="gelu_tanh")
    assert keys.problems[0].startswith(
        "config.json: 'act' is missing, and what read_config takes then, default='gelu_tan"
    )


def test_a_missing_theta_may_stand_where_newer_files_keep_it() -> None:
    keys = ConfigJSON({"rope_parameters": {"rope_theta": 1e4}})
    keys.number("rope_theta")
    keys.integer("head_dim", default=keys.integer("hidden_size") // 8)  # a default that can't be known is no problem
    with pytest.raises(CheckpointError) as caught:
        keys.finish()
    theta, size, unknown = str(caught.value).splitlines()
    assert theta.startswith("config.json: 'rope_theta' is missing; newer files keep it in 'rope_parameters': ")
    assert "read_rope" in theta
    assert size == "config.json: 'hidden_size' is missing"
    assert "'rope_parameters'" in unknown


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}}, "rope_parameters"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e6}}, "rope_scaling"),
    ],
)
def test_two_thetas_must_be_one(changes: dict[str, Any], place: str, registry: Registry) -> None:
    with pytest.raises(CheckpointError, match=f"'rope_theta' is 1000000.0, '{place}.rope_theta' is 5000000.0; keep"):
        read({**QWEN3_0_6B, **changes}, registry)
    agreed = read({**QWEN3_0_6B, **changes, "rope_theta": 5000000}, registry)
    assert agreed.layers[0].position.theta == 5e6  # type: ignore[attr-defined]


def test_who_claims_a_folder(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**QWEN3_0_6B, "model_type": "llama"}))
    with pytest.raises(CheckpointError, match="'llama' is claimed by no family; there are: gpt2, gpt_oss, qwen3"):
        read_config(tmp_path, registry=registry)
    twice = Registry(builtin=registry.builtin, things=dict(registry.things))
    registrar = Registrar(twice, "twin")
    registrar.family(replace(registry.get("family", "qwen3"), name="twin"))
    registrar.commit()
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_0_6B))
    with pytest.raises(CheckpointError, match=r"is claimed by .*qwen3 \(hf\).*disable a plugin"):
        read_config(tmp_path, registry=twice)


SMALL = {
    "gpt2": {"model_type": "gpt2", "vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "qwen3": {**QWEN3_0_6B, "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
    "gpt_oss": {
        **{k: v for k, v in GPT_OSS_20B.items() if k not in ("layer_types", "quantization_config")},
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_local_experts": 4,
    },
}


@pytest.mark.parametrize(
    ("family", "layout", "overrides", "match"),
    [
        ("gpt2", "hf", {"position": "rope"}, "layers.0.position"),
        ("gpt2", "hf", {"embedding.position": None}, "embedding.position"),
        ("gpt2", "hf", {"norm": "rms_norm"}, "can only say a LayerNormConfig as norm; the model has RMSNormConfig"),
        ("gpt2", "hf", {"layers.ffn": {"type": "glu", "d_ff": 32}}, "can only say a MLPConfig as ffn"),
        ("gpt2", "hf", {"layers.mixer.n_kv_heads": 1}, "layers.0.mixer.n_kv_heads"),
        ("gpt2", "hf", {"layers.mixer.window": 8}, "layers.0.mixer.window"),
        ("gpt2", "hf", {"embedding.scale": 2.0}, "embedding.scale: the model has 2.0, config.json would say 1.0"),
        ("gpt2", "hf", {"quantizer": "int8"}, "quantizer"),
        ("gpt2", "original", {}, "has no layout 'original'"),
        ("qwen3", "hf", {"blocks.full.sinks": True}, "mixer.sinks"),
        ("qwen3", "hf", {"norm.scale_in_fp32": True}, "scale_in_fp32"),
        ("qwen3", "hf", {"head.logit_softcap": 30.0}, "head.logit_softcap"),
        ("qwen3", "hf", {"position.scaling": {"type": "ntk", "factor": 2.0}}, "no words for ntk scaling"),
        ("qwen3", "hf", {"position.fraction": 0.5}, "no words for rope on a fraction"),
        ("qwen3", "hf", {"residual": "parallel"}, "residual"),
        ("gpt_oss", "hf", {"position.fraction": 0.5}, "no words for rope on a fraction"),
        ("gpt_oss", "hf", {"blocks.experts.router.weights": "all"}, "router.weights"),
        ("gpt_oss", "original", {}, "quantizer"),
    ],
)
def test_a_family_refuses_what_its_config_cant_say(
    family: str, layout: str, overrides: dict[str, Any], match: str, tmp_path: Path, registry: Registry
) -> None:
    mapping = registry.get("family", family).layouts["hf"].read_config(SMALL[family])
    model = build(load_config(mapping, overrides, registry=registry), registry=registry)
    with pytest.raises(CheckpointError, match=match):
        save_pretrained(model, tmp_path / "out", registry=registry, layout=layout)
    assert not (tmp_path / "out").exists()
    save_pretrained(model, tmp_path / "native", registry=registry, layout="native")


@pytest.mark.parametrize(
    ("values", "window"),
    [({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 8}, 8)],
)
def test_null_can_be_told_from_absent(values: dict[str, Any], window: int | None) -> None:
    keys = ConfigJSON(values)
    found = None if keys.is_null("sliding_window") else keys.integer("sliding_window", default=4096)
    assert found == window
    keys.finish()


def test_names_are_translated_by_a_mapping() -> None:
    values = {"layer_types": ["full_attention", "sliding_attention"]}
    words = {"full_attention": False, "sliding_attention": True}
    assert ConfigJSON(values).names("layer_types", 2, words) == [False, True]
    assert ConfigJSON(values).names("layer_types", 2, tuple(words)) == values["layer_types"]
    wrong = ConfigJSON(values)
    assert wrong.names("layer_types", 2, {"full_attention": False}) is None
    with pytest.raises(CheckpointError, match="2 words out of full_attention"):
        wrong.finish()


@pytest.mark.parametrize("values", [{}, {"window": None, "factor": None}])
def test_none_may_be_the_default(values: dict[str, Any]) -> None:
    keys = ConfigJSON(values)
    assert keys.integer("window", default=None) is None
    assert keys.number("factor", default=None) is None
    keys.finish()
    wrong = ConfigJSON({"window": 0})
    wrong.integer("window", default=None)
    with pytest.raises(CheckpointError, match="'window' is 0; it must be a whole number from 1"):
        wrong.finish()


def test_what_names_code_of_the_makers_changes_no_model() -> None:
    keys = ConfigJSON(
        {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "architectures": ["Phi3ForCausalLM"]}
    )
    keys.finish()
