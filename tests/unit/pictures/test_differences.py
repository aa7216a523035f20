"""What differs between two models: by option and layer, and nothing where they compute the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from blockzoo.cli.app import main
from blockzoo.config import digest, load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.differences import Change, differences
from blockzoo.plugins import host
from blockzoo.words import layers_in_words

BASE: dict[str, Any] = {
    "name": "a",
    "vocab_size": 256,
    "context_length": 64,
    "d_model": 32,
    "norm": {"type": "rms_norm"},
    "position": {"type": "rope"},
    "layers": {"count": 4, "mixer": {"type": "gqa", "n_heads": 4}, "ffn": {"type": "mlp", "d_ff": 64}},
}


def model(overrides: dict[str, Any] | None = None, **top: Any) -> ModelConfig:
    return load_config(BASE | top, overrides or {}, registry=host().registry)


def test_one_architecture_written_in_many_ways_is_equal() -> None:
    said = {
        "name": "other",
        "blocks": {"attention": {"type": "blocks:gqa", "n_heads": 4, "n_kv_heads": 4, "head_dim": 8, "bias": []}},
        "layers": {
            "count": 4,
            "mixer": {"cycle": ["attention", "attention"]},
            "ffn": {"type": "mlp", "d_ff": 64, "activation": "gelu"},
        },
    }
    assert differences(model(), model(**said)) == []
    assert digest(model(), host().registry) == digest(model(**said), host().registry)


def test_an_option_is_told_once_for_all_layers() -> None:
    assert differences(model(), model({"layers.mixer.sinks": True})) == [Change("mixer", "sinks", False, True)]


def test_an_option_of_some_layers_names_them() -> None:
    blocks = {"full": {"type": "gqa", "n_heads": 4}, "near": {"use": "full", "window": 8}}
    layers = BASE["layers"] | {"mixer": {"cycle": ["near", "full"]}}
    assert differences(model(), model(blocks=blocks, layers=layers)) == [
        Change("mixer", "window", None, 8, layers=(0, 2))
    ]


def test_depth_alone_is_one_change() -> None:
    blocks = {"full": {"type": "gqa", "n_heads": 4}, "near": {"use": "full", "window": 8}}
    layers = BASE["layers"] | {"mixer": {"cycle": ["near", "full"]}}
    small = model(blocks=blocks, layers=layers)
    assert differences(small, model({"layers.count": 8}, blocks=blocks, layers=layers)) == [
        Change("layers", "count", 4, 8)
    ]


def test_another_arrangement_of_the_same_blocks_is_a_change() -> None:
    blocks = {"full": {"type": "gqa", "n_heads": 4}, "near": {"use": "full", "window": 8}}
    models = [
        model(blocks=blocks, layers=BASE["layers"] | {"mixer": {"cycle": cycle}})
        for cycle in (["near", "full"], ["full", "near"])
    ]
    assert [(change.place, change.option) for change in differences(*models)] == [("mixer", "layers")]


def test_another_block_is_one_change_and_a_nested_option_has_its_path() -> None:
    moe = {"type": "moe", "n_experts": 4, "top_k": 2, "expert": {"type": "glu", "d_ff": 32}}
    [change] = differences(model(), model({"layers.ffn": moe}))
    assert (change.place, change.option, type(change.after).__name__) == ("ffn", "", "MoEConfig")
    wider = moe | {"expert": {"type": "glu", "d_ff": 48}}
    assert differences(model({"layers.ffn": moe}), model({"layers.ffn": wider})) == [
        Change("ffn.expert", "d_ff", 32, 48)
    ]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((), "all layers"),
        ((3,), "layer 3"),
        ((0, 2, 4, 6, 8, 10), "layers 0, 2, 4, ... 10 (6 of 12)"),
        ((3, 4, 5, 6), "layers 3 to 6 (4 of 12)"),
        ((0, 1, 5), "layers 0, 1, 5 (3 of 12)"),
    ],
)
def test_layers_in_words(layers: tuple[int, ...], words: str) -> None:
    assert layers_in_words(layers, 12) == words


def test_the_verb_says_it_in_words_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "ladder-05-grouped-queries", "ladder-06-sliding-window"]) == 0
    out = capsys.readouterr().out
    assert "differ in 1 option\n" in out
    assert "window: none -> 64   in layers 0, 2 (2 of 4)" in out
    assert main(["diff", "gpt2", "gpt2"]) == 0
    assert "the same architecture" in capsys.readouterr().out


def test_the_verb_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "qwen3-0.6b", "gpt-oss-20b", "--context", "128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["equal"]
    assert found["context"] == 128
    assert found["numbers"][1]["parameters"]["total"] == 20_914_757_184
    [ffn] = [change for change in found["changes"] if change["place"] == "ffn"]
    assert (ffn["before"]["type"], ffn["after"]["n_experts"]) == ("blocks:glu", 32)


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "gpt2", "gpt3"]) == 2
    assert "gpt3" in capsys.readouterr().err
