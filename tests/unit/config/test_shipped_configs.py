"""Every published size, exactly; the ladder; and shapes of other people's models."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from blockzoo.accounting import account
from blockzoo.building import build
from blockzoo.config import LayerConfig, digest, dump, load, load_config, read_yaml, shipped
from blockzoo.config.node import Node
from blockzoo.registry import Registrar, Registry
from tests.contract import blocks_for_tests

SHAPES = Path(__file__).parent / "shapes"

TOTAL = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-coder-480b-a35b": 480_154_875_392,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}


@pytest.mark.parametrize("name", TOTAL)
def test_parameters_of_every_published_size(shipping: Registry, name: str) -> None:
    config = load_config(name, registry=shipping)
    assert config.name == name
    assert account(config).parameters["total"] == TOTAL[name]
    assert load_config(dump(config, shipping), registry=shipping) == config


@pytest.mark.parametrize(
    ("name", "active", "packed", "kv_gb"),
    [("gpt-oss-20b", 3_608_307_264, 13_761_264_768, 3.22), ("gpt-oss-120b", 5_132_849_472, 65_248_815_744, 4.84)],
)
def test_gpt_oss_active_packed_and_cached(
    shipping: Registry, name: str, active: int, packed: int, kv_gb: float
) -> None:
    found = account(load_config(name, registry=shipping), context=131_072)
    assert found.parameters["active"] == active
    assert found.weight_bytes["as_configured"] == packed
    assert round(found.kv_cache_bytes() / 1e9, 2) == kv_gb


def test_layers_of_gpt_oss_alternate_from_sliding(shipping: Registry) -> None:
    config = load_config("gpt-oss-20b", registry=shipping)
    assert [layer.mixer.window for layer in config.layers] == [128, None] * 12  # type: ignore[union-attr]
    assert len({id(layer) for layer in config.layers}) == 2


def test_training_of_gpt2_is_said(shipping: Registry) -> None:
    config = load_config("gpt2", registry=shipping)
    layer: Any = config.layers[0]
    assert (config.embedding.dropout, layer.mixer.dropout, layer.residual.dropout) == (0.1, 0.1, 0.1)
    assert config.init.residual_output == "depth_scaled"


# --- the ladder ---


def ladder(registry: Registry) -> list[str]:
    return [name for name in shipped(registry) if name.startswith("ladder-")]


def changes(before: Any, after: Any, path: str = "") -> list[str]:
    """Dotted options that differ between two dumps."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = {**before, **after}
        return [found for key in keys for found in changes(before.get(key), after.get(key), f"{path}.{key}")]
    return [] if before == after else [path]


def test_each_step_is_one_to_five_lines_over_the_one_before(shipping: Registry) -> None:
    names, files = ladder(shipping), shipped(shipping)
    assert len(names) == 14
    for before, name in pairwise(names):
        lines = [line for line in files[name].read_text().splitlines() if not line.startswith("#")]
        assert 1 <= len(lines) <= 5, name
        assert read_yaml(files[name]).plain()["extends"] == before
        old, new = (load_config(n, registry=shipping) for n in (before, name))
        assert digest(old, shipping) != digest(new, shipping)
        assert changes(dump(old, shipping), dump(new, shipping))


def test_every_step_builds_and_computes(shipping: Registry) -> None:
    tokens = torch.randint(256, (1, 80), generator=torch.Generator().manual_seed(0))
    for name in ladder(shipping):
        model = build(load_config(name, registry=shipping), registry=shipping)
        with torch.no_grad():
            assert model(tokens).isfinite().all(), name


def structure(value: Any) -> Any:
    """What a block is, sizes left out."""
    if isinstance(value, BaseModel):
        return (type(value).__name__, {name: structure(getattr(value, name)) for name in type(value).model_fields})
    return "size" if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def test_the_last_step_is_gpt_oss(shipping: Registry) -> None:
    small, large = (load_config(name, registry=shipping) for name in (ladder(shipping)[-1], "gpt-oss-20b"))
    for part in ("embedding", "head"):
        assert structure(getattr(small, part)) == structure(getattr(large, part))
    for ours, theirs in zip(small.layers, large.layers, strict=False):
        for slot in LayerConfig.model_fields:
            assert structure(getattr(ours, slot)) == structure(getattr(theirs, slot)), slot
    gates: list[Any] = [config.layers[0].ffn.expert for config in (small, large)]  # type: ignore[union-attr]
    assert [(g.activation_scale, g.limit, g.up_shift) for g in gates] == [(1.702, 7.0, 1.0)] * 2


# --- shapes of others: no new syntax ---

OTHERS = {  # parameters of transformers' own models of these shapes
    "gemma-3-1b": 999_885_952,
    "smollm3-3b": 3_075_098_624,
    "deepseek-v3": 671_026_404_352,  # published: 14,848 more, the selection biases, which are buffers
    "gpt-j-6b": 6_050_882_784,
}


@pytest.fixture(scope="module")
def with_mixers(shipping: Registry) -> Registry:
    """Latent attention and a recurrence, which only tests have."""
    registry = Registry(shipping.builtin, dict(shipping.things))
    registrar = Registrar(registry, "for_tests")
    blocks_for_tests.blockzoo_register(registrar)
    registrar.commit()
    return registry


@pytest.mark.parametrize("name", OTHERS)
def test_other_shapes_count_right(with_mixers: Registry, name: str) -> None:
    config = load_config(SHAPES / f"{name}.yaml", registry=with_mixers)
    assert account(config).parameters["total"] == OTHERS[name]
    assert load_config(dump(config, with_mixers), registry=with_mixers) == config


def test_gemma_has_a_theta_for_local_layers(with_mixers: Registry) -> None:
    config = load_config(SHAPES / "gemma-3-1b.yaml", registry=with_mixers)
    pairs = [(layer.mixer.window, layer.position.theta) for layer in config.layers]  # type: ignore[union-attr,attr-defined]
    assert pairs == ([(512, 1e4)] * 5 + [(None, 1e6)]) * 4 + [(512, 1e4)] * 2


def test_smollm_leaves_positions_out_of_every_fourth_layer(with_mixers: Registry) -> None:
    config = load_config(SHAPES / "smollm3-3b.yaml", registry=with_mixers)
    assert [layer.position.form for layer in config.layers] == ["rotating", "rotating", "rotating", "none"] * 9


def test_deepseek_begins_dense(with_mixers: Registry) -> None:
    config = load_config(SHAPES / "deepseek-v3.yaml", registry=with_mixers)
    assert [type(layer.ffn).__name__ for layer in config.layers] == ["GLUConfig"] * 3 + ["MoEConfig"] * 58
    kept = account(config, context=1000).kv_cache_bytes()
    assert kept == 61 * 1000 * (512 + 64) * 2  # the latent and one rotated key for all heads


def test_jamba_mixes_a_recurrence_in(with_mixers: Registry) -> None:
    loaded = load(SHAPES / "jamba.yaml", registry=with_mixers)
    kinds = [type(layer.mixer).__name__ for layer in loaded.config.layers]
    assert [i for i, kind in enumerate(kinds) if kind == "GQAConfig"] == [4, 12, 20, 28]
    assert loaded.dropped == ()
    expert, router = 3 * 4096 * 14336, 16 * 4096
    parameters = account(loaded.config).parameters
    assert parameters["ffn"] == 16 * expert + 16 * (16 * expert + router)
    recurrence = 4096 * 3 * 8192 + 3 * 8192 + 8192 * 4096
    assert parameters["mixer"] == 28 * recurrence + 4 * (2 * 4096 * 4096 + 2 * 4096 * 1024)


def test_a_position_for_the_whole_model_is_dropped_where_there_is_a_recurrence(with_mixers: Registry) -> None:
    loaded = load(SHAPES / "jamba.yaml", {"position": "rope"}, registry=with_mixers)
    assert len(loaded.dropped) == 28
    assert isinstance(read_yaml(SHAPES / "jamba.yaml"), Node)
