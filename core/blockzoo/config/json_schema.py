"""The JSON schema (draft 2020-12) of a config file, with the blocks of all loaded plugins: for editors.

It is looser than loading where a file may be only differences to another: no key is required in a block, for
``extends`` or ``use`` may bring it. Unknown keys are refused at every depth, as loading refuses them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from blockzoo.blocks import KINDS, AdditivePositionConfig, BlockConfig, nested_kinds
from blockzoo.config.expand import INHERITED, MAX_LAYERS, SLOTS
from blockzoo.config.schema import ModelConfig
from blockzoo.registry import Registry

Schema: TypeAlias = dict[str, Any]

REQUIRED = ("vocab_size", "context_length", "d_model", "layers")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SLOT_HELP = {
    "mixer": "what mixes tokens: attention or a recurrence",
    "ffn": "what each token passes by itself",
    "norm": "the norm of every layer",
    "position": "what acts inside attention: rotating, biasing, or none",
    "residual": "how norms, mixer and ffn are joined; default: pre_norm",
    "quantizer": "how the weights of mixer and ffn are stored; default: none",
}


def json_schema(registry: Registry) -> Schema:
    """The schema of a config file."""
    definitions: dict[str, Schema] = {}
    for kind in KINDS:
        definitions |= _kind(kind, registry, definitions)
    definitions["any_block"] = _any_of(*(_ref(f"{kind}_block") for kind in KINDS))
    sections = ("embedding", "head", "init", "layers")  # written below: they refer to blocks
    whole = ModelConfig.model_json_schema()["properties"]
    properties: Schema = {key: _loose(value) for key, value in whole.items() if key not in sections}
    for name in ("embedding", "head", "init"):
        section = ModelConfig.model_fields[name].annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        described = _object(_model(section, definitions, name), description=_first_line(section))
        properties[name] = _any_of(described, {"type": "null"})
    for slot in INHERITED:
        properties[slot] = {"description": _SLOT_HELP[slot], **_ref(slot)}
    properties["blocks"] = {
        "type": "object",
        "description": "blocks by names of your own; slots, 'use' and patterns name them",
        "additionalProperties": _any_of(_ref("any_block"), {"type": ["string", "null"]}),
    }
    properties["extends"] = {
        "type": "string",
        "description": "another config, by name or by path relative to this file; this file says only what differs",
    }
    properties["layers"] = _layers()
    return {
        "$schema": _DIALECT,
        "title": "blockzoo model",
        **_object(properties),
        "anyOf": [{"required": ["extends"]}, {"required": list(REQUIRED)}],
        "$defs": definitions,
    }


# --- blocks -----------------------------------------------------------------------------------------------------


def _kind(kind: str, registry: Registry, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """Definitions for one kind: each block, any block of it, and what may stand in a slot for it."""
    blocks: dict[str, Schema] = {}
    fields: dict[str, Schema] = {}
    for component in registry.components():
        if component.kind != kind:
            continue
        cls: type[BlockConfig] = registry.block(kind, component.canonical)
        names = [component.canonical]
        if component.name in registry.names(kind):
            names.insert(0, component.name)
        properties = _model(cls, definitions, component.canonical)
        title = {"enum": names, "description": _first_line(cls)}
        blocks[f"{kind}/{component.canonical}"] = _object({"type": title, **properties}, required=["type"])
        fields |= {key: {} for key in properties}
    use = {"use": {"type": "string", "description": "a block of 'blocks' that this one differs from"}}
    differences = _object({**use, **fields})
    typed = [_ref(name) for name in blocks]
    none = [_object({"type": {"const": "none"}}, required=["type"])]
    run_count = {"type": "integer", "minimum": 1, "maximum": MAX_LAYERS, "description": "how many layers in a row"}
    return {
        **blocks,
        f"{kind}_block": _any_of(*typed, *none, differences),
        kind: _any_of({"type": ["string", "null"]}, _ref(f"{kind}_block")),
        f"{kind}_run": _any_of(
            {"type": "string"}, _object({"count": run_count, "type": {"type": "string"}, **use, **fields})
        ),
    }


def _model(cls: type[BaseModel], definitions: dict[str, Schema], name: str) -> Schema:
    """The properties of a pydantic model; references to blocks become references to their kinds."""
    try:
        schema = cls.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    except PydanticInvalidForJsonSchema:  # a plugin's field of some type that has none
        schema = {
            "properties": {key: {"description": info.description or ""} for key, info in cls.model_fields.items()}
        }
    properties: Schema = schema.get("properties", {})
    for key, base in nested_kinds(cls).items():  # type: ignore[arg-type]  # sections refer to blocks the same way
        described = {k: v for k, v in properties.get(key, {}).items() if k == "description"}
        slot = _any_of({"type": "string"}, {"type": "null"}, _ref(f"{base.kind}_block"))
        many = {"type": "array", "items": slot}
        lists = properties.get(key, {}).get("type") == "array"
        properties[key] = {**described, **(many if lists else slot)}
        if issubclass(base, AdditivePositionConfig):
            properties[key]["description"] = f"{described.get('description', '')}: acts on the embedding"
    _adopt(name, schema.get("$defs", {}), properties, definitions)
    return {key: _loose(value) for key, value in properties.items()}


def _adopt(name: str, inner: dict[str, Schema], properties: Schema, definitions: dict[str, Schema]) -> None:
    """Move the definitions that the properties refer to, themselves or through others, among the schema's own."""
    pending: list[Schema] = [properties]
    while pending:
        text = str(pending.pop())
        for key, definition in inner.items():
            if f"{name}.{key}" not in definitions and f"'#/$defs/{name}.{key}'" in text:
                definitions[f"{name}.{key}"] = _loose(definition)
                pending.append(definition)


def _loose(schema: Any) -> Any:
    """Without ``required``, titles and discriminators: a file may hold only differences."""
    if isinstance(schema, list):
        return [_loose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key in ("required", "discriminator") or (key == "title" and isinstance(value, str)):
            continue
        if key == "properties":
            found[key] = {name: _loose(inner) for name, inner in value.items()}
        else:
            found["anyOf" if key == "oneOf" else key] = value if key in ("default", "enum", "const") else _loose(value)
    return found


# --- layers -----------------------------------------------------------------------------------------------------


def _layers() -> Schema:
    index = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+\s*-\s*\d+$"}]}
    at = {
        "description": "which layers: an index (negative from the end), a span such as 2-5, or a list of those",
        "anyOf": [*index["anyOf"], {"type": "array", "items": index}],
    }
    slots = {slot: {"description": _SLOT_HELP[slot], **_ref(slot)} for slot in SLOTS}
    overrides = {
        "type": ["array", "null"],
        "description": "what single layers have otherwise",
        "items": _object({"at": at, **slots}, required=["at"]),
    }
    count = {"type": "integer", "minimum": 1, "maximum": MAX_LAYERS, "description": "how many layers"}
    return _object({"count": count, **{slot: _pattern(slot) for slot in SLOTS}, "overrides": overrides})


def _pattern(slot: str) -> Schema:
    """One block for all layers, or a pattern over them."""
    many = {"type": "array", "minItems": 1, "items": _ref(slot)}
    partial = {"type": "boolean", "default": False, "description": "the last cycle may break off"}
    cycle = {"description": "these in turn, as often as there are layers", **many}
    runs = {
        "description": "each so many times; the last without a count takes the rest",
        "type": "array",
        "minItems": 1,
        "items": _ref(f"{slot}_run"),
    }
    return {
        "description": _SLOT_HELP[slot],
        "anyOf": [
            _ref(slot),
            _object({"cycle": cycle, "partial": partial}, required=["cycle"]),
            _object({"runs": runs}, required=["runs"]),
            _object({"list": {"description": "one for each layer", **many}}, required=["list"]),
        ],
    }


def _object(properties: Schema, required: list[str] | None = None, description: str = "") -> Schema:
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = required
    if description:
        found["description"] = description
    return found


def _any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name.replace('/', '~1')}"}


def _first_line(cls: type[BaseModel]) -> str:
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0]
