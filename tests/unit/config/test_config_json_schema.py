"""The schema for editors: valid itself, accepts what loads, tells a typo at any depth."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from blockzoo.config import dump, json_schema, load_config, read_yaml, shipped
from blockzoo.registry import Registry


@pytest.fixture(scope="module")
def validator(shipping: Registry) -> Any:
    schema = json_schema(shipping)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_shipped_configs_and_their_dumps_are_valid(validator: Any, shipping: Registry) -> None:
    for name, path in shipped(shipping).items():
        validator.validate(read_yaml(path).plain())
        validator.validate(dump(load_config(name, registry=shipping), shipping))


@pytest.mark.parametrize(
    "good",
    [
        {"layers": {"mixer": {"cycle": ["full", {"type": "gqa", "n_heads": 3}], "partial": True}}},
        {
            "layers": {
                "ffn": {"runs": [{"use": "dense", "count": 3}, "experts"]},
                "overrides": [{"at": "0-2", "ffn": "none"}],
            }
        },
        {"layers": {"overrides": [{"at": [0, -1], "position": "none"}, {"at": 3, "mixer": {"window": 4}}]}},
        {
            "blocks": {
                "a": {"use": "b", "window": None},
                "c": None,
                "d": "gqa",
                "e": {"type": "blocks:gqa", "bias": ["q"]},
            }
        },
        {"head": {"norm": "none"}, "embedding": {"position": {"type": "learned"}, "scale": "sqrt_d_model"}},
        {"position": {"type": "rope", "scaling": {"type": "yarn", "factor": 4}}},
        {"position": {"theta": 3}, "quantizer": {"type": "none"}},
    ],
)
def test_good(validator: Any, good: dict[str, Any]) -> None:
    validator.validate({"extends": "gpt2", **good})


@pytest.mark.parametrize(
    "bad",
    [
        {"embeding": {}},
        {"head": {"nrm": "none"}},
        {"blocks": {"a": {"type": "gqa", "windw": 3}}},
        {"blocks": {"a": {"type": "gqaa"}}},
        {"norm": {"type": "rms_norm", "eps": "small"}},
        {"layers": {"mixer": {"cycl": ["a"]}}},
        {"layers": {"mixer": {"cycle": ["a"], "window": 3}}},
        {"layers": {"ffn": {"type": "moe", "router": {"bia": True}}}},
        {"layers": {"ffn": {"type": "moe", "expert": {"type": "glu", "d_f": 3}}}},
        {"layers": {"overrides": [{"position": "none"}]}},
        {"position": {"type": "rope", "scaling": {"type": "yarn", "fctor": 4}}},
        {"layers": {"count": 99999}},
    ],
)
def test_bad(validator: Any, bad: dict[str, Any]) -> None:
    assert not validator.is_valid({"extends": "gpt2", **bad})


def test_a_file_that_extends_nothing_must_say_what_it_is(validator: Any) -> None:
    assert not validator.is_valid({"vocab_size": 3})


def test_options_are_described_with_their_defaults(shipping: Registry) -> None:
    theta = json_schema(shipping)["$defs"]["position/blocks:rope"]["properties"]["theta"]
    assert theta["default"] == 10000.0
    assert theta["description"]
