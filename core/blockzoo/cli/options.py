"""The options of a block as rows: what each takes, its default and what it is for, out of the JSON schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

from blockzoo.blocks import KINDS
from blockzoo.config import json_schema
from blockzoo.registry import Registry

Schema: TypeAlias = dict[str, Any]

WORDS = {"null": "null", "boolean": "true or false", "integer": "whole number", "number": "number", "string": "text"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
REQUIRED = "required"


def kinds_of(registry: Registry, block: str) -> list[str]:
    """The kinds that have a block of this name, bare or ``plugin:name``."""
    full = {component.kind for component in registry.components() if component.canonical == block}
    return [kind for kind in KINDS if kind in full or block in registry.names(kind)]


def options(registry: Registry, kind: str, block: str) -> list[dict[str, str]]:
    """One row an option: its name (``router.bias`` inside a section), what it takes, its default, about it."""
    definitions = json_schema(registry)["$defs"]
    properties = definitions[f"{kind}/{registry.canonical(kind, block)}"]["properties"]
    required = {name for name, info in registry.block(kind, block).model_fields.items() if info.is_required()}
    return _rows(properties, definitions, required)


def section_options(registry: Registry, section: str) -> list[dict[str, str]]:
    """The same of a section of the model that is no block: ``embedding``, ``head``, ``init``."""
    schema = json_schema(registry)
    return _rows(schema["properties"][section]["anyOf"][0]["properties"], schema["$defs"])


def _rows(properties: Schema, definitions: Schema, required: Collection[str] = ()) -> list[dict[str, str]]:
    rows = []
    for name, schema in properties.items():
        if name != "type":
            default = REQUIRED if name in required else _shown(schema.get("default"))
            inner = list(_inner(name, schema, definitions))
            rows.append(_row(name, schema, "" if inner and default != "null" else default))
            rows += inner
    return rows


def _row(name: str, schema: Schema, default: str) -> dict[str, str]:
    return {"option": name, "takes": _takes(schema), "default": default, "about": schema.get("description", "")}


def _inner(name: str, schema: Schema, definitions: Schema) -> Iterator[dict[str, str]]:
    """The options of the sections that an option may hold; those of one of several behind its type."""
    for word, place in _sections(schema):
        label = f"{name}.{word}" if word else name
        for key, inner in definitions[place]["properties"].items():
            if "const" not in inner:
                yield _row(f"{label}.{key}", inner, _shown(inner["default"]) if "default" in inner else REQUIRED)


def _sections(schema: Schema) -> Iterator[tuple[str, str]]:
    """(type, definition) of each section that a schema refers to; references to kinds of blocks are none."""
    for alternative in schema.get("anyOf", [schema]):
        place = alternative.get("$ref", "").rpartition("/")[2]
        if place and place not in KINDS:
            yield "", place
        for case in alternative.get("then", {}).get("allOf", []):
            yield case["if"]["properties"]["type"]["const"], case["then"]["$ref"].rpartition("/")[2]


def _takes(schema: Schema) -> str:
    if "anyOf" in schema:
        return ", or ".join(_takes(alternative) for alternative in schema["anyOf"])
    if "$ref" in schema:
        place = schema["$ref"].rpartition("/")[2]
        return f"a {place} block" if place in KINDS else "a mapping"
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"a list of {_takes(schema.get('items', {}))}"
    if schema.get("type") == "object":
        words = schema.get("then", {}).get("properties", {}).get("type", {}).get("enum", [])
        return f"a mapping of type {' | '.join(words)}" if words else "a mapping"
    bounds = [f"{sign} {schema[key]}" for key, sign in BOUNDS.items() if key in schema]
    return f"{WORDS.get(schema.get('type', ''), 'anything')} {' and '.join(bounds)}".rstrip()


def _shown(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)
