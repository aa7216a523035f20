"""Knobs are turned until the account says so, whatever blocks a model is made of."""

from __future__ import annotations

import importlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from blockzoo.accounting import account
from blockzoo.blocks import Cost, Dims, FFNConfig, linear_cost
from blockzoo.cli import main
from blockzoo.config import ModelConfig, dump, load_config
from blockzoo.errors import ConfigError, InputError, PluginError
from blockzoo.experiments.axes import AXES, block_flops, number, numbers
from blockzoo.experiments.config import Axis, KnobConfig
from blockzoo.experiments.knobs import Draft, Source, make_knob
from blockzoo.experiments.scaling import rescaled
from blockzoo.experiments.solve import Solved, solve
from blockzoo.registry import Registrar, Registry
from tests.conftest import builtin_registry

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "docs" / "plugin-authors" / "examples"
DENSE: dict[str, Any] = {
    "vocab_size": 256,
    "context_length": 64,
    "d_model": 64,
    "norm": {"type": "rms_norm"},
    "position": {"type": "rope", "theta": 100},
    "blocks": {
        "full": {"type": "gqa", "n_heads": 8, "n_kv_heads": 4},
        "sliding": {"use": "full", "window": 8},
    },
    "layers": {
        "count": 4,
        "mixer": {"cycle": ["full", "sliding"]},
        "ffn": {"type": "glu", "d_ff": 128},
    },
}
MOE: dict[str, Any] = {
    **DENSE,
    "layers": {
        **DENSE["layers"],
        "ffn": {
            "type": "moe",
            "n_experts": 8,
            "top_k": 2,
            "expert": {"type": "glu", "d_ff": 48},
            "shared": {"type": "mlp", "d_ff": 96},
        },
    },
}
ASKED: dict[str, Any] = {"context": 64, "block": 32, "tokens": 3200}


def solved(
    model: Any, axis: Axis, target: float, *knobs: str | KnobConfig, registry: Registry, tolerance: float = 0.01
) -> Solved:
    made = [make_knob(knob) for knob in knobs]
    source = Source(model, {}, registry)
    return solve(source, made, lambda c: number(c, axis, **ASKED), target, tolerance=tolerance, axis=axis)


# --- each axis, each knob -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("model", [DENSE, MOE], ids=["dense", "moe"])
def test_every_axis_is_held_and_the_result_loads(axis: Axis, model: dict[str, Any], registry: Registry) -> None:
    before = load_config(model, registry=registry)
    target = 1.5 * number(before, axis, **ASKED)
    found = solved(model, axis, target, "width", "depth", "d_ff", registry=registry, tolerance=0.02)
    assert number(found.config, axis, **ASKED) == found.number
    assert abs(found.residual) <= 0.02
    assert load_config(dump(found.config, registry), registry=registry) == found.config
    assert set(found.turned) == {"width", "depth", "d_ff"}
    assert found.turned["width"] == found.config.d_model
    assert found.turned["depth"] == found.config.n_layers


def test_width_holds_head_dim_and_the_heads_ratio(registry: Registry) -> None:
    target = 4.0 * account(load_config(DENSE, registry=registry)).non_embedding
    found = solved(DENSE, "non_embedding", target, "width", registry=registry)
    layer = found.config.layers[0]
    assert (found.config.d_model, found.residual) == (128, pytest.approx(0, abs=0.01))
    assert (layer.mixer.n_heads, layer.mixer.n_kv_heads, layer.ffn.d_ff) == (16, 8, 256)
    with pytest.raises(ConfigError, match="add d_ff"):
        solved(DENSE, "non_embedding", target * 1.2, "width", registry=registry)


def test_a_multiple_is_kept(registry: Registry) -> None:
    found = solved(DENSE, "total", 1_000_000, "width:32", "d_ff:16", registry=registry)
    assert found.config.d_model % 32 == 0
    assert {layer.ffn.d_ff % 16 for layer in found.config.layers} == {0}


def test_depth_goes_on_with_the_pattern_and_keeps_cycles_whole(registry: Registry) -> None:
    one = account(load_config(DENSE, registry=registry)).non_embedding / 4
    found = solved(DENSE, "non_embedding", one * 10.6, "depth", registry=registry, tolerance=0.1)
    assert found.config.n_layers == 10  # 11 would break a cycle
    assert [layer.mixer.window for layer in found.config.layers] == [None, 8] * 5
    assert len({id(layer) for layer in found.config.layers}) == 2


def test_experts_are_turned_in_every_moe_layer(registry: Registry) -> None:
    total = account(load_config(MOE, registry=registry)).parameters["total"]
    found = solved(MOE, "total", 2.0 * total, "experts", registry=registry, tolerance=0.02)
    counts = {layer.ffn.n_experts for layer in found.config.layers}
    assert counts == {int(found.turned["experts"])}
    assert counts.pop() > 16
    assert {layer.ffn.top_k for layer in found.config.layers} == {2}


def test_blocks_that_differ_keep_their_proportion(registry: Registry) -> None:
    found = solved(MOE, "non_embedding", 400_000, "d_ff:2", registry=registry)
    ffn = found.config.layers[0].ffn
    assert ffn.shared.d_ff == found.turned["d_ff"]
    assert ffn.expert.d_ff == pytest.approx(ffn.shared.d_ff / 2, abs=1)


def test_a_dotted_key_takes_others_along(registry: Registry) -> None:
    knob = KnobConfig(key="d_model", multiple=8, along={"blocks.full.n_heads": 1 / 8, "blocks.full.n_kv_heads": 1 / 16})
    found = solved(DENSE, "non_embedding", 500_000, knob, "layers.ffn.d_ff", registry=registry)
    mixer = found.config.layers[1].mixer
    assert found.config.d_model == found.turned["d_model"] == 8 * mixer.n_heads
    assert mixer.n_heads == 2 * mixer.n_kv_heads
    assert found.config.layers[0].ffn.d_ff == found.turned["layers.ffn.d_ff"]


@settings(deadline=None, max_examples=25)
@given(factor=st.floats(0.2, 6.0), order=st.permutations(["width", "depth", "d_ff"]), axis=st.sampled_from(AXES))
def test_a_result_is_never_further_away_than_the_start(factor: float, order: list[str], axis: Axis) -> None:
    registry = builtin_registry()
    start = number(load_config(DENSE, registry=registry), axis, **ASKED)
    found = solved(DENSE, axis, factor * start, *order, registry=registry, tolerance=10.0)
    assert abs(found.number - factor * start) <= abs(start - factor * start)


@cache
def values_of_d_ff(axis: Axis) -> list[int]:
    draft, knob = Draft(Source(DENSE, {}, builtin_registry())), make_knob("d_ff:32")
    return [number(knob.turned(draft, 32 * i).config(), axis, **ASKED) for i in range(1, 160)]


@pytest.mark.parametrize("axis", ["non_embedding", "total", "flops_per_token"])
@settings(deadline=None, max_examples=20)
@given(target=st.integers(60_000, 3_000_000))
def test_one_knob_finds_the_best_of_all_its_values(axis: Axis, target: int) -> None:
    found = solved(DENSE, axis, target, "d_ff:32", registry=builtin_registry(), tolerance=100.0)
    assert abs(found.number - target) == min(abs(n - target) for n in values_of_d_ff(axis))


# --- what can't be done -------------------------------------------------------------------------------------------


def test_out_of_reach_says_the_nearest_and_what_to_add(registry: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        solved(DENSE, "kv_cache_bytes", 1_000_000, "d_ff", registry=registry)
    text = str(caught.value)
    start = number(load_config(DENSE, registry=registry), "kv_cache_bytes", **ASKED)
    assert f"kv_cache_bytes can't be brought to 1,000,000 within 1.00%: the nearest is {start:,}" in text
    assert "d_ff doesn't move it" in text
    assert "width (a step is" in text
    assert "depth" not in text.partition("width")[0]


def test_too_small_a_target_ends_at_the_least(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"nearest is [\d,]+ \(\+.*with depth 2, d_ff 1"):
        solved(DENSE, "non_embedding", 10, "depth", "d_ff", registry=registry)


def test_a_pattern_that_fixes_the_layers_is_told(registry: Registry) -> None:
    fixed = {**DENSE, "layers": {**DENSE["layers"], "mixer": {"list": ["full", "full", "sliding", "full"]}}}
    with pytest.raises(ConfigError, match=r"depth doesn't move it .*4 blocks for 5 layers"):
        solved(fixed, "non_embedding", 1_000_000, "depth", registry=registry)


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("dff", "did you mean 'd_ff'"),
        ("width:0", "NAME:MULTIPLE"),
        ("width:x", "NAME:MULTIPLE"),
        ("", "no such knob"),
        (KnobConfig(key="width", along={"d_model": 1}), "only a dotted key"),
    ],
)
def test_knobs_that_are_none(knob: str | KnobConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_knob(knob)


@pytest.mark.parametrize(
    ("knob", "message"),
    [("experts", "scales as experts"), ("layers.ffn.dff", "did you mean 'layers.ffn.d_ff'")],
)
def test_knobs_that_a_model_has_not(knob: str, message: str, registry: Registry) -> None:
    with pytest.raises(ConfigError, match=message):
        solved(DENSE, "total", 1_000_000, knob, registry=registry)


# --- blocks of others ---------------------------------------------------------------------------------------------


class StepsConfig(FFNConfig):
    """A third party's ffn whose cost goes up in steps and, past a width, down again."""

    scales: ClassVar[dict[str, Literal["width", "d_ff", "experts"]]] = {"size": "d_ff"}
    size: int = 64
    quantizer: None = None

    def cost(self, dims: Dims) -> Cost:
        inner = 16 * -(-self.size // 16)
        return linear_cost(dims.d_model, inner if inner <= 512 else max(1, 1024 - inner), bias=False).under("only")


class WrongConfig(StepsConfig):
    """Names a field that isn't there."""

    scales: ClassVar[dict[str, Literal["width", "d_ff", "experts"]]] = {"sise": "d_ff"}


class ComputesScalesConfig(StepsConfig):
    """A property where the class is asked."""

    @property
    def scales(self) -> Any:  # type: ignore[override]
        return {"size": "d_ff"}


@pytest.fixture
def strange() -> Registry:
    registry = builtin_registry()
    registrar = Registrar(registry, "strange")
    registrar.block("ffn", "steps", StepsConfig)
    registrar.block("ffn", "wrong", WrongConfig)
    registrar.block("ffn", "computes", ComputesScalesConfig)
    registrar.commit()
    return registry


def test_a_block_that_was_never_seen_is_turned_by_what_it_says(strange: Registry) -> None:
    model = {**DENSE, "layers": {**DENSE["layers"], "ffn": {"type": "steps"}}}
    start = account(load_config(model, registry=strange)).non_embedding
    found = solved(model, "non_embedding", start + 4 * 64 * 100, "d_ff", registry=strange, tolerance=0.05)
    assert found.config.layers[0].ffn.size in range(145, 177)  # steps of 16 up
    with pytest.raises(ConfigError, match="the nearest is"):
        solved(model, "non_embedding", 50 * start, "d_ff", registry=strange)


def test_a_wrong_scales_names_the_block(strange: Registry) -> None:
    model = {**DENSE, "layers": {**DENSE["layers"], "ffn": {"type": "wrong"}}}
    with pytest.raises(PluginError, match=r"WrongConfig\.scales: 'sise'"):
        solved(model, "total", 1_000_000, "d_ff", registry=strange)


def test_scales_that_an_instance_computes_are_refused(strange: Registry) -> None:
    model = {**DENSE, "layers": {**DENSE["layers"], "ffn": {"type": "computes"}}}
    with pytest.raises(PluginError, match=r"ComputesScalesConfig\.scales is a property: it must be a class variable"):
        solved(model, "total", 1_000_000, "d_ff", registry=strange)


@pytest.mark.parametrize(
    ("package", "folder", "block", "heads"),
    [
        (
            "blockzoo_mla",
            "mla",
            {"type": "mla", "n_heads": 4, "kv_rank": 16, "q_rank": 32, "nope_dim": 8, "rope_dim": 8, "v_dim": 8},
            {"n_heads": 8, "kv_rank": 32, "q_rank": 64},
        ),
        (
            "blockzoo_delta_net",
            "delta-net",
            {"type": "gated_delta_net", "n_heads": 4, "n_key_heads": 2, "key_dim": 8, "value_dim": 8},
            {"n_heads": 8, "n_key_heads": 4},
        ),
    ],
)
def test_the_examples_of_the_plugin_guide_scale(
    package: str, folder: str, block: dict[str, Any], heads: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / folder))
    registry = builtin_registry()
    registrar = Registrar(registry, folder)
    importlib.import_module(package).blockzoo_register(registrar)
    registrar.commit()
    model = {**DENSE, "layers": {**DENSE["layers"], "mixer": {**block, "norm": {"type": "rms_norm"}}}}
    start = load_config(model, registry=registry)
    wide = rescaled(start, lambda scale, value: value if scale == "experts" else 2 * value, d_model=128)
    found = solved(model, "non_embedding", account(wide).non_embedding, "width", registry=registry)
    assert found.config.d_model == 128
    assert found.config.layers[0].mixer.model_dump(include=set(heads)) == heads


# --- the account --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Registry:
    """With the names of the models in configs/."""
    registry = builtin_registry()
    registry.config_folders.update({name: [ROOT / "configs" / name] for name in ("gpt2", "gpt_oss", "qwen3")})
    return registry


@pytest.mark.parametrize("name", ["gpt2", "gpt-oss-20b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("block", [1, 2, 5, 127, 129, 200])
def test_flops_of_a_block_are_those_of_its_positions(name: str, block: int, shipped: Registry) -> None:
    config = load_config(name, registry=shipped)
    assert block_flops(config, block) == sum(account(config, n).flops_per_token for n in range(1, block + 1))


SHAPES = {"gpt-oss-20b": (24, 2880, 120.0), "qwen3-30b-a3b": (48, 2048, 42.7)}


@pytest.mark.parametrize("axis", ["non_embedding", "active"])
def test_published_aspect_ratios_replayed_small_at_equal_size(
    axis: Axis, registry: Registry, shipped: Registry
) -> None:
    """gpt-oss-20b (24 layers of 2880) and Qwen3-30B-A3B (48 of 2048), each by its own blocks, at one hundredth."""
    small: dict[str, ModelConfig] = {}
    for name, (layers, width, ratio) in SHAPES.items():
        published = load_config(name, registry=shipped)
        assert (published.n_layers, published.d_model) == (layers, width)
        assert published.d_model / published.n_layers == pytest.approx(ratio, abs=0.05)
    attention = {"type": "gqa", "n_heads": 8, "n_kv_heads": 2, "head_dim": 16}
    experts = {"type": "moe", "n_experts": 8, "top_k": 2, "expert": {"type": "glu", "d_ff": 64}}
    wide = {**DENSE, "d_model": 480, "layers": {"count": 4, "mixer": {**attention, "n_heads": 30}, "ffn": experts}}
    deep = {**DENSE, "d_model": 256, "layers": {"count": 6, "mixer": {**attention, "n_heads": 16}, "ffn": experts}}
    small["wide"] = load_config(wide, registry=registry)
    found = solved(deep, axis, number(small["wide"], axis, **ASKED), "d_ff", registry=registry)
    small["deep"] = found.config
    assert small["wide"].d_model / small["wide"].n_layers == 120
    assert small["deep"].d_model / small["deep"].n_layers == pytest.approx(42.7, abs=0.05)
    on_axes = {name: numbers(config, **ASKED) for name, config in small.items()}
    assert on_axes["deep"][axis] == pytest.approx(on_axes["wide"][axis], rel=0.01)


# --- the verb -----------------------------------------------------------------------------------------------------


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    file = tmp_path / "dense.yaml"
    file.write_text(yaml.safe_dump(DENSE))
    return file


def test_the_verb_shows_what_was_turned_and_writes_a_model(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "solved.yaml"
    arguments = ["solve", dense, "--target", "500k", "--knob", "width:16", "--knob", "d_ff", "-o", out]
    assert main([*map(str, arguments)]) == 0
    shown = capsys.readouterr()
    for word in ("dense", "solved", "change", "n_heads", "non_embedding *", "kv_cache_bytes", "training_flops"):
        assert word in shown.out
    assert re.search(r"non_embedding: [\d,]+ for 500,000, off by [+-]0\.\d+%, with width \d+, d_ff \d+", shown.err)
    assert f"wrote {out}" in shown.err
    assert main(["validate", str(out)]) == 0
    assert out.read_text().startswith("# ")


def test_the_verb_matches_another_model(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moe = tmp_path / "moe.yaml"
    moe.write_text(yaml.safe_dump(MOE))
    arguments = ["solve", dense, "--like", moe, "--axis", "active", "--json"]
    assert main([*map(str, arguments)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["like"]["active"] == found["target"]
    assert abs(found["residual"]) <= 0.01
    assert found["after"]["active"] == found["reached"]
    assert list(found["turned"]) == ["d_ff"]
    assert main([*map(str, arguments[:-1])]) == 0
    assert "solved / it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --target NUMBER or --like MODEL"),
        (["--target", "1M", "--like", "x"], "give either --target"),
        (["--target", "much"], "--target much: write a number"),
        (["--target", "0"], "--target 0: write a number"),
        (["--target", "1M", "--axis", "parameter"], "--axis parameter: no such axis"),
        (["--target", "1M", "--knob", "widht"], "did you mean 'width'"),
        (["--target", "1M", "--knob", "layers.ffn.dff"], "did you mean 'layers.ffn.d_ff'"),
        (["--target", "1M", "--tolerance", "0"], "--tolerance 0"),
        (["--target", "1M", "--context", "0"], "--context 0"),
        (["--target", "1e15", "--axis", "training_flops"], "with --tokens"),
        (["--target", "1M", "-o", "nowhere/file.yaml"], "there is no folder nowhere"),
        (["--target", "1M", "--axis", "kv_cache_bytes"], "d_ff doesn't move it; add"),
        (["--target", "1M", "--set", "layers.cout=3"], "layers.cout"),
    ],
)
def test_wrong_input_to_the_verb(
    dense: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["solve", str(dense), *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
