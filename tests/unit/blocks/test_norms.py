"""Norms against the published models and modules that they stand for, and the widths that one may refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm
from transformers.models.nanochat.modeling_nanochat import NanoChatRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from blockzoo.blocks import Cost, NormConfig, Parameter, Role
from blockzoo.building import build
from blockzoo.checkpoints import save_pretrained
from blockzoo.config import load_config
from blockzoo.errors import CheckpointError, ConfigError
from blockzoo.experiments.scaling import complaints
from blockzoo.registry import Registrar, Registry
from blockzoo_blocks.norms.layer_norm import LayerNormConfig
from blockzoo_blocks.norms.rms_norm import RMSNormConfig
from blockzoo_gpt2.family import GPT2
from tests.conftest import builtin_registry


def pair(scale_in_fp32: bool, theirs: torch.nn.Module, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 96, generator=generator).bfloat16()
    ours = RMSNormConfig(eps=1e-6, scale_in_fp32=scale_in_fp32, weight_offset=offset).build(96).bfloat16()
    weight = torch.randn(96, generator=generator).bfloat16()
    with torch.no_grad():
        ours.weight.copy_(weight)
        theirs.bfloat16().weight.copy_(weight)
        return ours(x), theirs(x)


def test_both_roundings_equal_their_model_in_bfloat16() -> None:
    for found, expected in (
        pair(True, GptOssRMSNorm(96, eps=1e-6)),
        pair(False, Qwen3RMSNorm(96, eps=1e-6)),
        pair(True, Gemma3RMSNorm(96, eps=1e-6), offset=1.0),
    ):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)


def test_the_roundings_differ() -> None:
    found, other = pair(True, Qwen3RMSNorm(96, eps=1e-6))
    assert 0.1 < float((found != other).float().mean()) < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale_in_fp32", [True, False])
@pytest.mark.parametrize("theirs", [NanoChatRMSNorm, Llama4TextL2Norm])
def test_a_root_mean_square_norm_without_gain(theirs: Any, scale_in_fp32: bool, dtype: torch.dtype) -> None:
    x = torch.randn(6, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    config = RMSNormConfig(eps=1e-5, weight=False, scale_in_fp32=scale_in_fp32)
    ours = config.build(48)
    assert ours.state_dict() == {}
    assert config.cost(48) == Cost()
    assert torch.equal(ours(x), theirs(eps=1e-5)(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [RMSNormConfig(weight_offset=1.0), LayerNormConfig()], ids=lambda c: c.label)
def test_gains_of_each_head_are_norms_of_each_head(config: RMSNormConfig | LayerNormConfig, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 16, generator=generator).to(dtype)
    together, alone = config.build(16, heads=3).to(dtype), [config.build(16).to(dtype) for _ in range(3)]
    with torch.no_grad():
        for name, parameter in together.named_parameters():
            assert config.cost(16, heads=3).parameters[name].shape == parameter.shape == (3, 16)
            parameter.copy_(torch.randn(3, 16, generator=generator))
            for one, row in zip(alone, parameter, strict=True):
                one.get_parameter(name).copy_(row)
        expected = torch.stack([one(head) for one, head in zip(alone, x.unbind(-2), strict=True)], dim=-2)
        torch.testing.assert_close(together(x), expected, rtol=0 if dtype is torch.float32 else 2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_a_layer_norm_without_gain_is_torchs(dtype: torch.dtype, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(6, 48, generator=generator) / 10 + 0.3).to(dtype)
    plain = torch.nn.LayerNorm(48, eps=eps, elementwise_affine=False)
    config = LayerNormConfig(eps=eps, weight=False, bias=False)
    ours = config.build(48)
    assert list(ours.parameters()) == []
    assert config.cost(48) == Cost()
    assert torch.equal(ours(x), plain(x))
    shifted = LayerNormConfig(eps=eps, weight=False).build(48).to(dtype)
    assert list(shifted.state_dict()) == ["bias"]
    bias = torch.randn(48, generator=generator).to(dtype)
    with torch.no_grad():
        shifted.bias.copy_(bias)
    torch.testing.assert_close(shifted(x), plain(x) + bias, rtol=0, atol=0.05 if dtype is torch.bfloat16 else 1e-6)


def test_a_family_that_has_gains_refuses_a_norm_without(tmp_path: Path) -> None:
    registry = builtin_registry()
    layout = GPT2.layouts["hf"]
    said = {"name": "bare", **layout.read_config(layout.samples[0].config_json)}
    config = load_config(said, {"norm.weight": False}, registry=registry)
    model = build(config, registry=registry)
    assert not [name for name, _ in model.named_parameters() if name.endswith("norm.weight")]
    with pytest.raises(CheckpointError, match=r"norm\.weight: the model has False, config\.json would say True"):
        save_pretrained(model, tmp_path / "a", registry=registry)


class Grouped(NormConfig):
    """Norms groups of features."""

    size: int = Field(4, description="features of a group")

    def refuses(self, dim: int) -> str | None:
        return f"{dim} features are no groups of {self.size}" if dim % self.size else None

    def build(self, dim: int) -> torch.nn.Module:
        return torch.nn.GroupNorm(dim // self.size, dim)

    def cost(self, dim: int) -> Cost:
        return Cost({name: Parameter((dim,), role) for name, role in (("weight", Role.GAIN), ("bias", Role.BIAS))})


@pytest.fixture
def grouped() -> Registry:
    registry = builtin_registry()
    registrar = Registrar(registry, "mine")
    registrar.block("norm", "grouped", Grouped)
    registrar.commit()
    return registry


def of(size: int) -> dict[str, Any]:
    return {"type": "grouped", "size": size}


def model(**said: Any) -> dict[str, Any]:
    mixer = {"type": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 6, **said.pop("mixer", {})}
    sizes = {"vocab_size": 8, "context_length": 8, "d_model": 32, "norm": "rms_norm"}
    ffn = {"type": "mlp", "d_ff": 8, "activation": "relu"}
    return {"name": "m", **sizes, "layers": {"count": 1, "mixer": mixer, "ffn": ffn}, **said}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"norm": {"type": "rms_norm", "weight": False, "weight_offset": 1}},
            "norm.weight_offset: 1 is added to the weight, and weight is false: leave one out",
        ),
        (
            {"mixer": {"qk_norm": of(3), "qk_norm_over": "each_head"}},
            "layers.mixer.qk_norm_over: gains of each head are for qk_norm rms_norm and layer_norm; say head",
        ),
        (
            {"mixer": {"qk_norm": {"type": "rms_norm", "weight": False}, "qk_norm_over": "each_head"}},
            "layers.mixer.qk_norm_over: each_head gives each head its own gains, and this qk_norm has none; say head",
        ),
        (
            {"mixer": {"qk_norm": "rms_norm", "qk_norm_over": "each_head", "qk_norm_placement": "after"}},
            "layers.mixer.qk_norm_placement: a norm with gains of each head stands before the rotation",
        ),
        ({"norm": of(5)}, "norm: 32 features are no groups of 5"),
        ({"head": {"norm": of(5)}}, "head.norm: 32 features are no groups of 5"),
        ({"embedding": {"norm": of(5)}}, "embedding.norm: 32 features are no groups of 5"),
        ({"mixer": {"qk_norm": of(4)}}, "layers.mixer.qk_norm: 6 features are no groups of 4"),
        (
            {"mixer": {"qk_norm": of(8), "qk_norm_over": "projection"}},
            "layers.mixer.qk_norm: 12 features are no groups of 8",
        ),
    ],
)
def test_what_a_norm_refuses_is_told_with_its_place(said: dict[str, Any], message: str, grouped: Registry) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(model(**said), registry=grouped)
    assert [problem.message for problem in error.value.problems] == [message]


def test_a_norm_stands_where_it_refuses_nothing(grouped: Registry) -> None:
    over = {"qk_norm": of(12), "qk_norm_over": "projection"}
    config = load_config(model(norm=of(8), mixer=over), registry=grouped)
    assert not list(complaints(config))
    narrow = config.model_copy(update={"d_model": 36})
    assert list(complaints(narrow)) == [f"{place}: 36 features are no groups of 8" for place in ("head.norm", "norm")]
    no_norms = {"residual": {"type": "sandwich", "pre": False}, "ffn": "none", "mixer": "none", "count": 1}
    load_config(model(norm=of(5), head={"norm": "none"}, layers=no_norms), registry=grouped)
