"""A small GPT-2 checkpoint in a folder, to be spoilt; and a registry that knows the shipped configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockzoo.building import build
from blockzoo.checkpoints import save_pretrained
from blockzoo.config import load_config
from blockzoo.registry import Registry
from tests.conftest import builtin_registry

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}


@pytest.fixture
def checkpoint(tmp_path: Path, registry: Registry) -> Path:
    mapping = registry.get("family", "gpt2").layouts["hf"].read_config(GPT2)
    model = build(load_config(mapping, registry=registry), registry=registry)
    save_pretrained(model, tmp_path / "gpt2", registry=registry)
    return tmp_path / "gpt2"


@pytest.fixture(scope="module")
def shipping() -> Registry:
    registry = builtin_registry()
    registry.config_folders = {"blocks": [CONFIGS / name for name in ("gpt2", "qwen3", "gpt_oss")]}
    return registry
