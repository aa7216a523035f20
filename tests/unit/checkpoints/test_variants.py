"""What is wrong with a model that a config.json describes is told by the keys of config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockzoo.checkpoints import read_config
from blockzoo.checkpoints.variants import keys_behind
from blockzoo.errors import ConfigError
from blockzoo_gpt2.family import GPT2
from blockzoo_gpt2.samples import HF
from tests.conftest import builtin_registry


def test_a_folder_that_is_no_model_names_its_keys(tmp_path: Path) -> None:
    values = {**HF[0].config_json, "n_head": 7}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path, registry=builtin_registry())
    (problem,) = caught.value.problems
    assert problem.place == f"{tmp_path}: config.json"
    assert problem.message.startswith("layers.mixer.n_heads: ")
    assert problem.message.endswith("; layers.mixer.n_heads comes from 'n_head'")


def test_a_problem_of_an_override_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HF[0].config_json))
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path, registry=builtin_registry(), overrides={"d_mdel": 3})
    assert "config.json" not in str(caught.value)


def test_keys_behind_a_place() -> None:
    read = GPT2.layouts["hf"].read_config
    assert keys_behind("d_model", HF[0].config_json, read) == ["n_embd"]
    assert keys_behind("no.such.place", HF[0].config_json, read) == []
