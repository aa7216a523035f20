"""What a checkpoint says beside its model is there again after loading and saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.checkpoints.save import contents
from blockzoo.config import load_config
from blockzoo.testing.families import write_sample
from blockzoo_gpt2.samples import HF
from tests.conftest import builtin_registry

REGISTRY = builtin_registry()
IDS = {"bos_token_id": 7, "eos_token_id": [5, 6], "pad_token_id": None}
GENERATION = {"temperature": 0.6, "eos_token_id": [5, 6]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny GPT-2 whose texts say more than the model needs."""
    layout = REGISTRY.families()["gpt2"].layouts["hf"]
    config = load_config({"name": "sample", **layout.read_config(HF[0].config_json)}, registry=REGISTRY)
    write_sample(config, tmp_path / "a", REGISTRY)
    _write(tmp_path / "a" / "config.json", {**_read(tmp_path / "a" / "config.json"), **IDS, "use_cache": False})
    _write(tmp_path / "a" / "generation_config.json", GENERATION)
    return tmp_path


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")


def test_token_ids_and_how_to_generate_are_kept(folder: Path) -> None:
    save_pretrained(from_pretrained(folder / "a", registry=REGISTRY), folder / "b", registry=REGISTRY)
    said = _read(folder / "b" / "config.json")
    assert {key: said[key] for key in IDS} == IDS
    assert "use_cache" not in said
    assert said["architectures"] == ["GPT2LMHeadModel"]
    assert _read(folder / "b" / "generation_config.json") == GENERATION


def test_the_native_layout_keeps_how_to_generate(folder: Path) -> None:
    model = from_pretrained(folder / "a", registry=REGISTRY)
    save_pretrained(model, folder / "b", registry=REGISTRY, layout="native")
    again = from_pretrained(folder / "b", registry=REGISTRY)
    assert again.kept == {"generation_config.json": GENERATION}


def test_a_model_built_here_has_its_familys_ids(folder: Path) -> None:
    model = from_pretrained(folder / "a", registry=REGISTRY)
    _, text = contents(model.config, "hf", model.dtype, registry=REGISTRY)
    assert text.keys() == {"config.json"}
    assert json.loads(text["config.json"])["eos_token_id"] is None  # the vocabulary ends before it


def test_rope_is_said_for_both_dialects_and_no_more() -> None:
    family = REGISTRY.families()["qwen3"].layouts["hf"]
    config = load_config({"name": "q", **family.read_config(family.samples[0].config_json)}, registry=REGISTRY)
    said = family.write_config(config)
    assert said["rope_theta"] == said["rope_parameters"]["rope_theta"]
    assert "rope_scaling" not in said
