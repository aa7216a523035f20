"""A tiny model with everything in it that training must carry, and a tiny text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.registry import Registry
from blockzoo.tokenizers import ByteTokenizer
from blockzoo.training.config import TrainConfig
from blockzoo.training.data import Dataset, prepare
from blockzoo.training.data_config import DataConfig
from blockzoo.training.run import Run

MODEL = {
    "name": "tiny",
    "vocab_size": 256,
    "context_length": 16,
    "d_model": 16,
    "tokenizer": "bytes",
    "embedding": {"tied": True, "position": {"type": "learned"}, "dropout": 0.1},
    "norm": {"type": "layer_norm"},
    "residual": {"type": "pre_norm", "dropout": 0.1},
    "blocks": {
        "attention": {"type": "gqa", "n_heads": 2, "bias": True, "sinks": True, "dropout": 0.1},
        "experts": {
            "type": "moe",
            "n_experts": 3,
            "top_k": 2,
            "router": {"bias": True},
            "expert": {"type": "glu", "d_ff": 8, "bias": True},
            "balance_loss": 0.01,
        },
    },
    "layers": {"count": 2, "mixer": "attention", "ffn": "experts"},
}
TRAIN = {
    "steps": 12,
    "batch_size": 4,
    "block": 16,
    "optimizer": {"lr": 0.01},
    "schedule": {"warmup": 2},
    "eval": {"every": 5, "tokens": 200},
    "log_every": 3,
}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "words.txt"
    lines = (f"line {i} says {'the quick brown fox'[: i % 19]} and {i * i} more\n" for i in range(400))
    file.write_text("".join(lines))
    return file


@pytest.fixture(scope="session")
def dataset(text: Path) -> Dataset:
    return prepare(DataConfig(path=text), ByteTokenizer(), "bytes", text.parent / "tokens")


@pytest.fixture
def tiny(registry: Registry) -> ModelConfig:
    return load_config(MODEL, registry=registry)


@pytest.fixture
def recipe() -> TrainConfig:
    return TrainConfig.model_validate(TRAIN)


@pytest.fixture
def new_run(
    tiny: ModelConfig, recipe: TrainConfig, dataset: Dataset, registry: Registry, tmp_path: Path
) -> Callable[..., Run]:
    """A run in a folder of its own; keywords replace fields of the recipe."""

    def make(out: str = "runs", **changes: Any) -> Run:
        train = TrainConfig.model_validate({**TRAIN, **changes})
        return Run(tiny, train, dataset, tmp_path / out, registry, "bytes")

    return make
