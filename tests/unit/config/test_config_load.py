"""From YAML to a complete config: names, patterns, inheritance, sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockzoo.blocks import MixerConfig
from blockzoo.config import ModelConfig, load, load_config, shipped
from blockzoo.errors import ConfigError
from blockzoo.registry import Registry

Write = Callable[..., Path]
Told = Callable[[Callable[[], object]], list[str]]


@pytest.fixture
def model(write: Write, base: str, toys: Registry) -> Callable[..., ModelConfig]:
    """model(extra YAML, **overrides): the base with something else in it."""

    def model(text: str = "", overrides: dict[str, Any] | None = None) -> ModelConfig:
        write(base, "base.yaml")
        return load_config(write(f"extends: base.yaml\n{text}"), overrides, registry=toys)

    return model


Model = Callable[..., ModelConfig]


def windows(config: ModelConfig) -> list[int | None]:
    return [None if layer.mixer is None else layer.mixer.window for layer in config.layers]  # type: ignore[attr-defined]


def mixers(config: ModelConfig) -> list[str]:
    return ["none" if layer.mixer is None else type(layer.mixer).__name__.lower() for layer in config.layers]


# --- patterns ---


@pytest.mark.parametrize(
    ("mixer", "expected"),
    [
        ("full", [None] * 4),
        ("{cycle: [near, full]}", [4, None, 4, None]),
        ("{cycle: [near, near, full], partial: true}", [4, 4, None, 4]),
        ("{runs: [{use: near, count: 3}, {use: full}]}", [4, 4, 4, None]),
        ("{runs: [{use: near, count: 1}, full]}", [4, None, None, None]),
        ("{runs: [{type: attend, heads: 1, window: 9, count: 4}]}", [9] * 4),
        ("{list: [near, full, full, {use: near, window: 5}]}", [4, None, None, 5]),
        ("{use: near, window: null}", [None] * 4),
        ("{type: attend, heads: 8, window: 2}", [2] * 4),
    ],
)
def test_patterns_of_one_slot(model: Model, mixer: str, expected: list[int | None]) -> None:
    assert windows(model(f"layers: {{mixer: {mixer}}}")) == expected


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        ("{cycle: [near, full, full]}", "4 layers are not a whole number of cycles of 3"),
        ("{cycle: []}", "found a list; expected a list of blocks"),
        ("{cycle: [full], partial: 1}", "found 1; expected true or false"),
        ("{cycle: [full], runs: [full]}", "unknown key 'runs'"),
        ("{cycle: [full], window: 3}", "options belong to the blocks it names"),
        ("{list: [full]}", "1 blocks for 4 layers"),
        ("{runs: [near, full]}", "a run needs 'count'"),
        ("{runs: [{use: near, count: 5}]}", "runs of 5 layers in all for layers.count 4"),
        ("{runs: [{use: near, count: 4}, full]}", "no layer is left for this run"),
        ("{runs: [{use: near, count: 99999999}, full]}", "found 99999999; expected a whole number from 1 to 10,000"),
        ("{use: full, type: attend}", "'use' and 'type' in one block"),
        ("{window: 3, heads: [1]}", "found a list"),
        ("3", "found 3; expected the name of a block"),
        ("ful", "no mixer 'ful'; did you mean 'full'?"),
        ("{cycle: [full, {cycle: [full]}]}", "a pattern belongs to a slot of 'layers'"),
    ],
)
def test_patterns_that_are_wrong(model: Model, problems: Told, mixer: str, message: str) -> None:
    found = problems(lambda: model(f"layers: {{mixer: {mixer}}}"))
    assert any(message in line for line in found), found
    assert all(line[0].isdigit() for line in found), found


def test_overrides_of_single_layers(model: Model) -> None:
    config = model(
        "layers: {overrides: [{at: [0, -1], mixer: near}, {at: 1-2, mixer: {window: 7}}, {at: 3, ffn: none}]}"
    )
    assert windows(config) == [4, 7, 7, 4]
    assert [layer.ffn is None for layer in config.layers] == [False, False, False, True]
    assert config.layers[1] is config.layers[2]


@pytest.mark.parametrize("at", ["4", "-5", "2-4", "x", "[0, true]", "3-1"])
def test_overrides_of_layers_that_are_not(model: Model, problems: Told, at: str) -> None:
    assert "layers.overrides.0.at" in problems(lambda: model(f"layers: {{overrides: [{{at: {at}, mixer: near}}]}}"))[0]


def test_depth_changes_by_count_alone(model: Model) -> None:
    config = model("layers: {count: 10000, mixer: {cycle: [near, full]}}")
    assert config.n_layers == 10_000
    assert len({id(layer) for layer in config.layers}) == 2


def test_equal_blocks_written_twice_are_one_layer(model: Model) -> None:
    config = model("blocks: {twin: {type: attend, heads: 2}}\nlayers: {mixer: {cycle: [full, twin]}}")
    assert len({id(layer) for layer in config.layers}) == 1


# --- inheritance ---


def test_layers_take_from_the_model_what_they_leave_out(model: Model) -> None:
    config = model("norm: {eps: 0.5}\nlayers: {norm: {cycle: [plain, {type: plain, eps: 2}]}}")
    assert [layer.norm.eps for layer in config.layers] == [1e-5, 2, 1e-5, 2]  # type: ignore[attr-defined]
    assert config.head.norm.eps == 0.5  # type: ignore[union-attr]
    assert [type(layer.residual).__name__ for layer in config.layers] == ["Join"] * 4
    assert model("head: {norm: none}").head.norm is None
    assert model("head: {norm: {type: plain, eps: 3}}").head.norm.eps == 3  # type: ignore[union-attr]


def bits(block: Any) -> int | None:
    return None if block.quantizer is None else block.quantizer.bits


def test_quantizer_of_the_block_over_the_layers_over_the_models(model: Model) -> None:
    config = model(
        "quantizer: {type: pack, bits: 8}\n"
        "blocks: {own: {use: full, quantizer: {type: pack, bits: 2}}, plainly: {use: full, quantizer: none}}\n"
        "layers: {mixer: {list: [full, own, plainly, full]}, overrides: [{at: 3, quantizer: {bits: 3}}]}"
    )
    assert [bits(layer.mixer) for layer in config.layers] == [8, 2, None, 3]
    assert [bits(layer.ffn) for layer in config.layers] == [8, 8, 8, 3]
    config = model("quantizer: pack\nlayers: {quantizer: {cycle: [none, pack]}}")
    assert [bits(layer.mixer) for layer in config.layers] == [None, 4, None, 4]
    assert config.embedding.quantizer is None


@pytest.mark.parametrize(
    "text",
    [
        "layers: {ffn: {type: experts, n: 2, expert: {type: dense, d_ff: 3, quantizer: pack}}}",
        "embedding: {tied: true}\nhead: {quantizer: pack}",
    ],
)
def test_a_quantizer_that_would_say_nothing(model: Model, problems: Told, text: str) -> None:
    found = problems(lambda: model(text))
    assert len(found) == 1
    assert "quantizer" in found[0]


def test_an_inherited_position_is_dropped_where_it_has_no_use(model: Model, write: Write, toys: Registry) -> None:
    text = "extends: base.yaml\nlayers: {mixer: {cycle: [recur, full]}}"
    model()
    loaded = load(write(text), registry=toys)
    forms = [layer.position.form for layer in loaded.config.layers]
    assert forms == ["none", "rotating", "none", "rotating"]
    assert loaded.dropped == tuple(
        f"layers.{i}.position: toys:turn (rotating) is dropped, mixer toys:recur takes none" for i in (0, 2)
    )


@pytest.mark.parametrize("where", ["position: turn", "overrides: [{at: 0, position: {theta: 3}}]"])
def test_an_explicit_one_is_an_error(model: Model, problems: Told, where: str) -> None:
    found = problems(lambda: model(f"layers: {{mixer: recur, {where}}}"))
    assert len(found) == 1
    assert "found a position of form 'rotating'; mixer toys:recur takes: none" in found[0]


def test_positions_stand_where_they_act(model: Model, problems: Told) -> None:
    assert "it goes to embedding.position" in problems(lambda: model("position: table"))[0]
    assert "it goes to 'position'" in problems(lambda: model("embedding: {position: turn}"))[0]
    assert type(model("embedding: {position: table}").embedding.position).__name__ == "Table"
    assert model("embedding: {position: none}").embedding.position is None


# --- names ---


def test_a_block_may_be_given_by_its_canonical_name(model: Model) -> None:
    assert mixers(model("layers: {mixer: 'toys:recur'}")) == ["recur"] * 4


def test_use_in_a_circle(model: Model, problems: Told) -> None:
    found = problems(lambda: model("blocks: {full: {use: near}}"))
    assert any("'use' goes in a circle: " in line for line in found), found


def test_a_long_chain_of_uses_ends_in_a_message(model: Model, problems: Told) -> None:
    blocks = "".join(f"  b{i}: {{use: b{i + 1}}}\n" for i in range(3000))
    assert "goes through more than 64" in problems(lambda: model(f"blocks:\n{blocks}layers: {{mixer: b0}}"))[0]


def test_a_nested_block_may_be_a_name(model: Model) -> None:
    config = model("layers: {ffn: {type: experts, n: 2, expert: wide, shared: [wide, {use: wide, d_ff: 3}]}}")
    ffn: Any = config.layers[0].ffn
    assert (ffn.expert.d_ff, [block.d_ff for block in ffn.shared]) == (32, [32, 3])


def test_extends_by_name_path_and_from_a_mapping(write: Write, base: str, toys: Registry, tmp_path: Path) -> None:
    write(base, "shipped/tiny.yaml")
    (tmp_path / "deep").mkdir()
    child = write("extends: ../shipped/tiny.yaml\nd_model: 16\n", "deep/child.yaml")
    assert load_config("tiny", registry=toys).name == "tiny"
    assert load_config(str(child), registry=toys).d_model == 16
    assert load_config(child, registry=toys).name == "child"
    assert load_config({"extends": "tiny", "d_model": 24}, registry=toys).d_model == 24
    assert load_config({"extends": str(child), "name": "x"}, registry=toys).name == "x"
    assert shipped(toys) == {"tiny": tmp_path / "shipped" / "tiny.yaml"}


def test_names_that_lead_nowhere(write: Write, base: str, toys: Registry, tmp_path: Path) -> None:
    write(base, "shipped/tiny.yaml")
    with pytest.raises(ConfigError, match="no config 'tinny'; did you mean 'tiny'"):
        load_config("tinny", registry=toys)
    with pytest.raises(ConfigError, match=r"no file '.*nope.yaml'"):
        load_config(str(tmp_path / "nope.yaml"), registry=toys)
    with pytest.raises(ConfigError, match=r"model.yaml:1:10: extends: no config 'tinny'"):
        load_config(write("extends: tinny\n"), registry=toys)
    (tmp_path / "trained").mkdir()
    write("{}", "trained/config.json")
    with pytest.raises(ConfigError, match=r"trained' is a folder: a checkpoint, which blockzoo.from_pretrained reads"):
        load_config(str(tmp_path / "trained"), registry=toys)
    with pytest.raises(ConfigError, match=r"shipped' is a folder, not a YAML file"):
        load_config(str(tmp_path / "shipped"), registry=toys)
    write("extends: b.yaml\n", "a.yaml")
    with pytest.raises(ConfigError, match=r"extends goes in a circle: a.yaml -> b.yaml -> a.yaml"):
        load_config(write("extends: a.yaml\n", "b.yaml").with_name("a.yaml"), registry=toys)
    for i in range(40):
        write(f"extends: f{i + 1}.yaml\n", f"f{i}.yaml")
    with pytest.raises(ConfigError, match="extends goes through more than 32"):
        load_config(tmp_path / "f0.yaml", registry=toys)


def test_one_name_shipped_twice(write: Write, base: str, toys: Registry, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(base, f"{folder}/same.yaml")
    write(base, "shipped/tiny.yaml")
    write(base, "one/tiny.yaml")
    toys.config_folders |= {"first": [tmp_path / "one"], "second": [tmp_path / "two"]}
    with pytest.raises(ConfigError, match=r"shipped twice: .*one/same.yaml and .*two/same.yaml"):
        load_config("same", registry=toys)
    assert shipped(toys)["tiny"] == tmp_path / "shipped" / "tiny.yaml"  # a built-in name is never another's


def test_requires_and_family(model: Model, problems: Told, toys: Registry) -> None:
    found = problems(lambda: model("requires: [toys, broken, absent]"))
    assert [line.partition(": ")[2] for line in found] == [
        "requires.1: plugin 'broken' is required and not loaded: import_failed: no such thing",
        "requires.2: plugin 'absent' is required and not loaded: not installed",
    ]
    assert model("family: anything").family == "anything"
    toys.things["family", "known", "toys"] = object()
    assert "no family 'knwn'; did you mean 'known'?" in problems(lambda: model("family: knwn"))[0]


def test_a_block_of_a_missing_plugin_says_why(model: Model, problems: Told) -> None:
    assert "import_failed: no such thing" in problems(lambda: model("norm: 'broken:fancy'"))[0]


# --- overrides from outside ---


def test_dotted_overrides(model: Model) -> None:
    config = model("", {"layers.count": 2, "blocks.full.heads": 4, "layers.mixer.window": 3, "norm.eps": 0.25})
    assert config.n_layers == 2
    mixer: Any = config.layers[0].mixer
    assert (mixer.heads, mixer.window, config.layers[0].norm.eps) == (4, 3, 0.25)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layers.count", 0, "override layers.count: layers.count: found 0; expected a whole number from 1"),
        ("blocks.full.heads", 3, "override blocks.full.heads: blocks.full.heads: d_model 8 is not a multiple of 3"),
        (
            "blocks.ful.heads",
            4,
            "override blocks.ful.heads: blocks.ful: a block needs 'type' or 'use'; did you mean 'full'?",
        ),
        ("layer.count", 3, "override layer.count: layer: unknown key 'layer'; did you mean 'layers'?"),
        ("a..b", 3, "override a..b: a key is names joined by dots"),
        ("d_model", object(), "override d_model: d_model: found a object; a config holds"),
    ],
)
def test_overrides_that_are_wrong(model: Model, problems: Told, key: str, value: object, message: str) -> None:
    found = problems(lambda: model("", {key: value}))
    assert any(line.startswith(message) for line in found), found


def test_mappings_go_through_the_same_pipeline(toys: Registry, problems: Told) -> None:
    mapping = {"vocab_size": 4, "context_length": 4, "d_model": 4, "norm": "plain", "layers": {"count": 1}}
    found = problems(lambda: load_config(mapping, registry=toys))
    assert found == [f"mapping: layers: missing key '{slot}' (none leaves it out)" for slot in ("ffn", "mixer")]
    mapping["layers"] = {"count": 1, "mixer": "none", "ffn": "none"}
    assert load_config(mapping, registry=toys).layers[0].mixer is None


# --- where values come from ---


def test_sources(write: Write, base: str, toys: Registry) -> None:
    path = write(base)
    sources = load(path, {"d_model": 16}, registry=toys).sources
    assert sources["layers.3.mixer.heads"] == f"{path}:7"
    assert sources["layers.3.mixer.type"] == f"{path}:7"
    assert sources["layers.0.mixer.window"] == "default of toys:attend"
    assert sources["layers.0.norm.eps"] == "default of toys:plain"
    assert sources["layers.0.residual.type"] == "default"
    assert sources["head.norm.type"] == f"{path}:4"
    assert sources["d_model"] == "override d_model"
    assert sources["embedding.tied"] == "default of the model.embedding"
    assert isinstance(load_config(path, registry=toys).layers[0].mixer, MixerConfig)
