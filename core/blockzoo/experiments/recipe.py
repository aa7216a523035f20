"""The recipe of one model: what ``blockzoo train`` reads beside the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from blockzoo.config.node import Node, Place
from blockzoo.config.parse import section
from blockzoo.config.schema import Section
from blockzoo.config.yaml_source import read_yaml
from blockzoo.errors import InputError
from blockzoo.experiments.overlay import with_overrides
from blockzoo.training.config import BUDGETS, TrainConfig
from blockzoo.training.data_config import DataConfig

DEFAULT_STEPS = 1000


class RecipeConfig(Section):
    """A YAML file for ``blockzoo train --recipe``."""

    train: TrainConfig = Field(description="how the model is trained")
    data: DataConfig = Field(DataConfig(), description="on what text")


def read_recipe(file: Path | None, overrides: Mapping[str, Any], *, context_length: int) -> RecipeConfig:
    """A recipe from YAML or the defaults, overrides laid over it. The block defaults to what the context holds.

    Raises ConfigError with everything wrong in it.
    """
    if file is not None and not file.is_file():
        raise InputError(f"{file}: no such file; a recipe is a YAML file with the sections train and data")
    root = Node({}, Place("default")) if file is None else read_yaml(file)
    root = with_overrides(root, overrides)
    train = root.get("train")
    defaults: dict[str, Any] = {}
    if train is None or all(train.get(name) is None for name in BUDGETS):
        defaults["train.steps"] = DEFAULT_STEPS
    if train is None or train.get("block") is None:
        defaults["train.block"] = min(TrainConfig.model_fields["block"].default, context_length)
    recipe = section(RecipeConfig, with_overrides(root, defaults))
    if file is None or "data.path" in overrides or "data.dataset.name" in overrides:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.seen_from(file.parent)})
