"""How verbs read the model that an argument names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.config.yaml_source import parse_override
from blockzoo.registry import Registry


def overrides_of(settings: Sequence[str]) -> dict[str, object]:
    """``["layers.count=2"]`` -> ``{"layers.count": 2}``. Raises ConfigError for what isn't KEY=VALUE."""
    return dict(parse_override(text) for text in settings)


def read_model(ref: str, registry: Registry, settings: Sequence[str] = ()) -> ModelConfig:
    """The model of a shipped name, a YAML file or a checkpoint folder."""
    if Path(ref).is_dir():
        from blockzoo.checkpoints import read_config

        return read_config(ref, registry=registry, overrides=overrides_of(settings))
    return load_config(ref, overrides_of(settings), registry=registry)
