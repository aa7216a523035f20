"""Tiny random models of the two families that chat, with their real vocabularies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from blockzoo import building
from blockzoo.checkpoints import save_pretrained
from blockzoo.config import load_config
from blockzoo.registry import Registry
from blockzoo_gpt_oss.family import GPT_OSS
from blockzoo_qwen3.family import QWEN3

SIZES = {"vocab_size": 201088, "max_position_embeddings": 1024, "initial_context_length": 128, "sliding_window": 16}
QWEN_SIZES = {"vocab_size": 151936, "max_position_embeddings": 1024}


@pytest.fixture(scope="session")
def checkpoints(data: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """family -> a checkpoint folder."""
    folders = {}
    for family, sizes in ((GPT_OSS, SIZES), (QWEN3, QWEN_SIZES)):
        said = {**family.layouts["hf"].samples[0].config_json, **sizes}
        config = load_config({"name": "tiny", **family.layouts["hf"].read_config(said)}, registry=registry)
        folder = tmp_path_factory.mktemp("chat") / family.name
        save_pretrained(
            building.build(config, registry=registry, dtype=torch.float32, seed=1), folder, registry=registry
        )
        folders[family.name] = folder
    shutil.copyfile(data / "qwen3-tokenizer" / "tokenizer.json", folders["qwen3"] / "tokenizer.json")
    return folders


@pytest.fixture(scope="package", autouse=True)
def vocabularies(data: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(data / "tiktoken-cache"))
        yield
