"""The JSON schema of an experiment's YAML, for editors: models in it are described as in model files.

As loose as a model's: what is missing is told by loading. Unknown keys are refused but where a model's dotted keys
stand (``set``, ``vary``): only the model knows those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from blockzoo.config import json_schema
from blockzoo.config.json_schema import Schema, section_schema
from blockzoo.experiments.config import ExperimentConfig
from blockzoo.experiments.plan import SHARED
from blockzoo.registry import Registry

MODEL, NAME = "model", "experiment"


def experiment_schema(registry: Registry) -> Schema:
    """The schema of a file for ``blockzoo compare``."""
    model = json_schema(registry)
    definitions: dict[str, Schema] = model.pop("$defs")
    dialect = model.pop("$schema")
    definitions[MODEL] = model
    whole = section_schema(ExperimentConfig, definitions, NAME)
    _refer_to_model(whole["properties"], "base")
    arm = definitions[f"{NAME}.ArmConfig"]["properties"]
    _refer_to_model(arm, "config")
    train = definitions[f"{NAME}.TrainConfig"]["properties"]
    keys = {key: schema for key, schema in _dotted(train, definitions) if key.partition(".")[0] not in SHARED}
    arm["train"] = {
        "description": arm["train"]["description"],
        "type": "object",
        "properties": keys,
        "additionalProperties": False,
    }
    return {
        "$schema": dialect,
        "title": "blockzoo experiment",
        **whole,
        "required": ["name", "train"],
        "$defs": definitions,
    }


def _refer_to_model(properties: Schema, key: str) -> None:
    """A model by name, by file, or written out."""
    properties[key] = {
        "description": properties[key]["description"],
        "if": {"type": "object"},
        "then": {"$ref": f"#/$defs/{MODEL}"},
        "else": {"type": ["string", "null"]},
    }


def _dotted(properties: Schema, definitions: dict[str, Schema], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, schema) of everything in a section."""
    for key, schema in properties.items():
        yield before + key, schema
        ref = schema.get("$ref", "").removeprefix("#/$defs/")
        if ref in definitions:
            yield from _dotted(definitions[ref].get("properties", {}), definitions, f"{before}{key}.")
