"""Tiny checkpoints, and the peers for tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blockzoo.bench.peers import PEERS
from blockzoo.bench.subject import drawn
from blockzoo.config import load_config
from blockzoo.registry import Registry
from tests.conftest import builtin_registry
from tests.unit.test_memory_plan import TINY

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def shipping() -> Registry:
    registry = builtin_registry()
    registry.config_folders = {"blocks": [ROOT / "configs" / name for name in ("gpt2", "qwen3", "gpt_oss")]}
    return registry


@pytest.fixture(scope="session")
def folders(shipping: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of tiny models, by name, in Hugging Face's layout."""
    home = tmp_path_factory.mktemp("tiny")
    for name in ("gpt2", "gpt-oss-20b"):
        drawn(load_config(name, TINY[name], registry=shipping), home / name, torch.bfloat16, registry=shipping)
    return {name: home / name for name in ("gpt2", "gpt-oss-20b")}


@pytest.fixture(scope="session", autouse=True)
def peers_for_tests() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("steady", "crashing", "refusing"):
            patch.setitem(PEERS, name, f"tests.unit.bench.peers.{name}")
        yield
