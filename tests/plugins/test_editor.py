"""``blockzoo schema`` with plugins installed: an editor knows their options and names the field that is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema.exceptions import best_match

from blockzoo.config import read_yaml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugin-authors" / "editor.md"
GOOD = """\
vocab_size: 256
context_length: 256
d_model: 128
norm: {type: 'demo:dynamic_tanh', alpha: 0.7}
position: {type: rope, theta: 10000}
blocks:
  gated: {type: gated_attention, n_heads: 4}
  full: {type: gqa, n_heads: 4, n_kv_heads: 2, qk_norm: {type: dynamic_tanh}}
  sliding: {use: full, window: 64}
  experts: {type: moe, n_experts: 4, top_k: 2, expert: {type: glu, d_ff: 64}, quantizer: {type: nibble, group_size: 16}}
layers:
  count: 4
  mixer: {cycle: [gated, sliding]}
  ffn: {runs: [{use: experts, count: 3}, {type: mlp, d_ff: 64}]}
"""
BAD = [  # in place of, what, the field that the message must name, words of the message
    ("d_model: 128", "d_model: wide", "$.d_model", "'wide' is not of type 'integer'"),
    ("d_model: 128\n", "", "$", "'d_model' is a required property"),
    ("alpha: 0.7", "alfa: 0.7", "$.norm", "('alfa' was unexpected)"),
    ("alpha: 0.7", "alpha: steep", "$.norm.alpha", "'steep' is not of type 'number'"),
    ("alpha: 0.7", "alpha: -1", "$.norm.alpha", "-1 is less than or equal to the minimum of 0"),
    ("demo:dynamic_tanh", "demo:dynamic_tan", "$.norm.type", "'demo:dynamic_tan' is not one of"),
    ("theta: 10000", "thta: 10000", "$.position", "('thta' was unexpected)"),
    ("theta: 10000", "scaling: {type: yarn, fctor: 2}", "$.position.scaling", "('fctor' was unexpected)"),
    ("{type: gated_attention, n_heads: 4}", "{type: gated_attention, n_heads: four}", "$.blocks.gated.n_heads", "four"),
    ("gated_attention", "gated_atention", "$.blocks.gated.type", "'gated_atention' is not one of"),
    ("{type: dynamic_tanh}", "{type: dynamic_tanh, alpha: []}", "$.blocks.full.qk_norm.alpha", "[] is not of type"),
    ("window: 64", "windw: 64", "$.blocks.sliding", "('windw' was unexpected)"),
    ("window: 64", "window: wide", "$.blocks.sliding.window", "'wide' is not valid"),
    ("group_size: 16", "group_size: 1", "$.blocks.experts.quantizer.group_size", "1 is less than the minimum of 2"),
    ("expert: {type: glu, d_ff: 64}", "expert: {type: glu, d_f: 64}", "$.blocks.experts.expert", "('d_f' was"),
    ("top_k: 2", "top_k: 2, router: {bia: true}", "$.blocks.experts.router", "('bia' was unexpected)"),
    ("cycle: [gated, sliding]", "cycl: [gated, sliding]", "$.layers.mixer", "('cycl' was unexpected)"),
    ("[gated, sliding]", "[gated, {type: gated_attention, n: 3}]", "$.layers.mixer.cycle[1]", "('n' was unexpected)"),
    ("count: 3", "count: three", "$.layers.ffn.runs[0].count", "'three' is not of type 'integer'"),
    ("count: 4", "count: 4\n  overrides: [{at: 0, norm: {type: dynamic_tanh, alpha: x}}]",
     "$.layers.overrides[0].norm.alpha", "'x' is not of type 'number'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def schema(blockzoo: Any, good: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blockzoo("schema", path=[good], check=True).stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@pytest.fixture
def complaint(schema: dict[str, Any], tmp_path: Path) -> Callable[[str], str | None]:
    """What an editor would say about a file: the field and the message, or None."""

    def find(text: str) -> str | None:
        file = tmp_path / "model.yaml"
        file.write_text(text)
        error = best_match(jsonschema.Draft202012Validator(schema).iter_errors(read_yaml(file).plain()))
        return None if error is None else f"{error.json_path}: {error.message}"

    return find


def test_options_of_plugins_are_described_with_defaults_and_limits(schema: dict[str, Any]) -> None:
    definitions = schema["$defs"]
    alpha = definitions["norm/demo:dynamic_tanh"]["properties"]["alpha"]
    assert alpha["default"] == 0.5
    assert alpha["description"] == "the slope before the tanh, at the start"
    assert alpha["exclusiveMinimum"] == 0
    kind = definitions["mixer/demo:gated_attention"]["properties"]["type"]
    assert kind["enum"] == ["gated_attention", "demo:gated_attention"]
    assert kind["description"]
    assert "dynamic_tanh" in definitions["norm_block"]["then"]["properties"]["type"]["enum"]
    assert definitions["quantizer/demo:nibble"]["properties"]["group_size"]["default"] == 16


def test_every_option_of_every_block_is_described(schema: dict[str, Any]) -> None:
    for name, definition in schema["$defs"].items():
        if "/" in name and not name.endswith("/none"):
            assert all(option.get("description") for option in definition["properties"].values()), name


def test_a_good_file_is_good(complaint: Callable[[str], str | None]) -> None:
    assert complaint(GOOD) is None


@pytest.mark.parametrize(("old", "new", "field", "words"), BAD, ids=[new[:40].strip() for _, new, _, _ in BAD])
def test_the_message_names_the_right_field(
    complaint: Callable[[str], str | None], old: str, new: str, field: str, words: str
) -> None:
    assert GOOD.count(old) == 1
    said = str(complaint(GOOD.replace(old, new)))
    assert said.startswith(f"{field}: ")
    assert words in said


def test_the_page_shows_what_is_said(complaint: Callable[[str], str | None]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(# yaml-language-server.*?)```", text, flags=re.DOTALL)
    assert complaint(example) is None
    rows = re.findall(r"^\| `(\w+): (.*?)` \| `(.*?)` \|$", text, flags=re.MULTILINE)
    assert len(rows) == 5
    for key, value, message in rows:
        said = str(complaint(re.sub(rf"^({key}: .*\n)?", "", example, flags=re.MULTILINE) + f"{key}: {value}\n"))
        assert said.startswith(message.removesuffix("[...]"))
