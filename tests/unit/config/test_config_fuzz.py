"""Whatever is done to a config's text, it loads or it is told what is wrong: never another exception."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockzoo.config import load_config
from blockzoo.errors import ConfigError
from blockzoo.registry import Registry

WORDS = st.sampled_from(
    [
        "none",
        "full",
        "near",
        "wide",
        "attend",
        "turn",
        "experts",
        "null",
        "-1",
        "1e9",
        "true",
        "[full]",
        "{use:&near}",
        "{cycle:&[near,full]}",
        "{runs:&[full]}",
        "{}",
        "[]",
        "{type:&turn,scaling:&{type:&ramp}}",
        "'toys:recur'",
        "!x&1",
        "!!int x",
    ]
)
KEYS = st.sampled_from(
    [
        "layers.mixer",
        "layers.ffn",
        "layers.count",
        "layers.overrides",
        "blocks.full",
        "blocks.near.use",
        "norm",
        "head.norm",
        "blocks",
        "layers",
        "position",
        "quantizer",
        "embedding.position",
        "init",
        "requires",
        "family",
        "extends",
        "name",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(KEYS, WORDS, min_size=1, max_size=3))
@example(changes={"blocks": "null", "layers.mixer": "{use: near}"})
def test_any_value_anywhere(write: Callable[..., Path], toys: Registry, base: str, changes: dict[str, str]) -> None:
    text = base
    for number, (key, value) in enumerate(changes.items()):
        write(text, f"base{number}.yaml")
        value = value.replace("&", " ")
        for part in reversed(key.split(".")):
            value = f"{{{part}: {value}}}"
        text = f"extends: base{number}.yaml\n{value[1:-1]}\n"
    with contextlib.suppress(ConfigError):
        load_config(write(text), registry=toys)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_character_anywhere(write: Callable[..., Path], toys: Registry, base: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(base)))
    length = data.draw(st.integers(0, 5))
    new = data.draw(st.text(st.sampled_from(list("{}[]:,-&*!|>'\"#\t\n 0a~?%@`\x00é")), max_size=4))
    with contextlib.suppress(ConfigError):
        load_config(write(base[:at] + new + base[at + length :]), registry=toys)


def test_the_base_is_yaml_for_others_too(base: str) -> None:
    assert yaml.safe_load(base)["layers"]["count"] == 4
